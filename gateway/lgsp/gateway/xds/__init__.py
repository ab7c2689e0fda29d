"""From policy to Envoy: pure compilation into xDS resources, and the delta ADS server that delivers them."""
