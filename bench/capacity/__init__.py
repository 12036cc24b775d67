"""How many gateways, model servers and how much Redis for how many images a second; see docs/capacity.md."""
