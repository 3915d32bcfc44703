"""The only place in oCore that knows Odoo: pure functions over plain data.

`config` writes odoo.conf, `commands` the command lines, `queries` the SQL that goes past Odoo; `plan` decides which
modules to install and update, `verdict` says whether that succeeded, `readiness` whether Odoo serves its database;
`versions` holds what differs between Odoo's versions.
"""
