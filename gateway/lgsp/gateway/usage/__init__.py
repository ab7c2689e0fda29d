"""Who called what, how often and last when: counted from the gateway's call records, shared by the nodes."""
