"""The configuration of the process: flags, files that they name, addresses, logging; and manifests of versions."""
