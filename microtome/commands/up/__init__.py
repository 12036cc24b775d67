"""`microtome up`: from a recipe to a service that answers, in one command.

options (`command`) → checks → export of missing models (`run`) → model server and gateway (`plan`, `processes`) →
ready → what to try → supervision until one of them ends or the user stops them (`supervisor`, `signals`).
"""
