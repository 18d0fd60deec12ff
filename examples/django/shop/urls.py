from django.urls import path

from shop.views import place

urlpatterns = [path("place/<str:item>/", place)]
