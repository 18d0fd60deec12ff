"""A small shop. PROJECT_DSN: its database; PROJECT_DRIVER, PROJECT_POOL, PROJECT_SECOND, PROJECT_PQ: what the tests
vary."""

import json
import os
import sys
from pathlib import Path

import django

from pq_adapters.django import database

if os.environ.get("PROJECT_DRIVER") == "psycopg2":
    # Django takes psycopg 3 wherever it is installed: hide it while the backend is imported.
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "psycopg"}
    sys.modules["psycopg"] = None
    import django.db.backends.postgresql.base

    sys.modules.update(hidden)

BASE_DIR = Path(os.environ.get("PROJECT_BASE_DIR") or Path(__file__).parent.parent)
SECRET_KEY = "for tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "pq_adapters.django",
    "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "project.urls"
DATABASES = {
    "default": database(os.environ["PROJECT_DSN"], CONN_MAX_AGE=int(os.environ.get("PROJECT_CONN_MAX_AGE", 0)))
}
if os.environ.get("PROJECT_SECOND"):
    DATABASES["second"] = database(os.environ["PROJECT_DSN"])
if os.environ.get("PROJECT_POOL"):
    DATABASES["default"]["OPTIONS"]["pool"] = {"min_size": 1, "max_size": 4}
STATIC_URL = "/static/"
PQ = {"app": "shop", "defaults": {"timeout": 60}, **json.loads(os.environ.get("PROJECT_PQ", "{}"))}
if django.VERSION >= (6, 0):
    PQ.setdefault("tasks", ["shop.mail"])
    TASKS = {
        "default": {"BACKEND": "pq_adapters.django.PQBackend", "QUEUES": ["default", "mail"]},
        "other": {
            "BACKEND": "pq_adapters.django.PQBackend",
            "QUEUES": [],
            "OPTIONS": json.loads(os.environ.get("PROJECT_TASKS_OPTIONS", '{"max_attempts": 2}')),
        },
        "immediate": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"},
    }
