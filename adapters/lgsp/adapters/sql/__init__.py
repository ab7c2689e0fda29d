"""The SQL adapter: a relational database becomes services by a contract alone."""
