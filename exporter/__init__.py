"""Cuts pretrained vision backbones at named layers and writes SavedModels that describe themselves."""
