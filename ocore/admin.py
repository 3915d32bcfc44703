"""The admin's own name, and whom it knows."""

from django.contrib import admin

from ocore import accounts  # noqa: F401 - registers them

admin.site.site_header = "oCore"
admin.site.site_title = "oCore"
admin.site.index_title = "What runs where"
admin.site.enable_nav_sidebar = False  # the lists need the width; what is used daily stands in the header
admin.site.site_url = None
admin.site.empty_value_display = "–"
