"""``pq demo``: the main job on input that every machine has, the standard library of the running interpreter.

``tasks`` is the application, which a worker loads; ``command``, ``run`` and what they use stay out of that image.
"""
