"""What `microtome up` does: from a recipe to a service that answers, in one command.

arguments → checks (recipe, port, addresses) → export what is missing → model server and gateway, side by side →
ready → what to try → watch both until one ends or somebody says stop.

`session` is the order of events, `supervisor` the watch over the processes, `processes` one of them.
"""
