"""The revisions of pq's schema: plain SQL files, applied by Alembic."""
