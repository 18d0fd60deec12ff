"""Settings of the example: only what it needs."""

from pathlib import Path

import django

from pq_adapters.django import database

BASE_DIR = Path(__file__).parent
SECRET_KEY = "an example's"
USE_TZ = True
TIME_ZONE = "UTC"
ROOT_URLCONF = "shop.urls"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "pq_adapters.django", "shop"]
DATABASES = {"default": database()}  # PQ_DATABASE_URL, else DATABASE_URL
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PQ = {"app": "shop", "tasks": ["shop.letters"] if django.VERSION >= (6, 0) else []}
TASKS = {"default": {"BACKEND": "pq_adapters.django.PQBackend"}}  # Django 6.0 and newer
