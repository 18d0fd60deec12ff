"""Sessions, frameworks and the terminal: each module joins pq to one of them and imports none of the others."""
