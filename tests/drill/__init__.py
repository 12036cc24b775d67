"""The whole system without a cluster: what the manifests state, run as processes, rolled and broken under load."""
