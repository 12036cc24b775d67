"""The core: from encoded images to vectors. Knows no framework, no wire format and no settings."""
