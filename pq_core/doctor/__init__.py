"""What may be wrong with a database, a machine or an application that pq works with, and what mends it."""
