from . import acme_note
