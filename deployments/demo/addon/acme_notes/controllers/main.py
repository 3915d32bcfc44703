import json

from odoo import SUPERUSER_ID, api
from odoo.http import Controller, request, route
from odoo.modules.registry import Registry


class Notes(Controller):
    @route("/acme_notes/post", type="http", auth="public", methods=["POST"], csrf=False, save_session=False)
    def post(self):
        """Store a note and answer its id, which is only known to the client once the note is committed.

        Odoo itself commits after a controller has returned, and answers even then with an error if that fails. A cursor
        of our own is closed, and so committed, before the answer is made: no retry and no later error can come between.
        """
        try:
            values = json.loads(request.httprequest.get_data(cache=False) or b"{}")
            title = str(values["title"])[:200].strip()
            body = str(values.get("body") or "")[:10_000]
        except (ValueError, KeyError, TypeError, AttributeError):
            title = ""
        if not title:
            return request.make_json_response({"error": "send a JSON object with a title"}, status=400)
        with Registry(request.db).cursor() as cursor:
            note_id = api.Environment(cursor, SUPERUSER_ID, {})["acme.note"].create({"title": title, "body": body}).id
        return request.make_json_response({"id": note_id}, status=201)

    @route("/acme_notes/count", type="http", auth="public", methods=["GET"], save_session=False)
    def count(self, title=None, id=None):
        """How many notes there are, of this title or id where one is given, and the newest one's id."""
        domain = []
        if title:
            domain.append(("title", "=", title))
        if id:
            if not id.isdigit():
                return request.make_json_response({"error": "id must be a number"}, status=400)
            domain.append(("id", "=", int(id)))
        notes = request.env["acme.note"].sudo().with_context(active_test=False)
        last = notes.search(domain, order="id desc", limit=1)
        return request.make_json_response({"count": notes.search_count(domain), "last_id": last.id or 0})
