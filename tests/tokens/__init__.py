"""Token ids against KerasHub's own tokenizers, which need tensorflow-text: `make test-tokens`."""
