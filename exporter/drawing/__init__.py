"""Draw an architecture: people would rather look than read 700 rows."""
