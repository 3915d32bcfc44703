{
    "name": "Acme Notes",
    "summary": "Short notes, written by people and by programs",
    "version": "19.0.1.0.0",
    "author": "oCore",
    "website": "https://example.com",
    "license": "LGPL-3",
    "category": "Productivity",
    "depends": ["web"],
    "data": [
        "security/ir.model.access.csv",
        "views/acme_note_views.xml",
    ],
    "application": True,
    "installable": True,
}
