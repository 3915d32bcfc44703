from odoo import fields, models


class AcmeNote(models.Model):
    _name = "acme.note"
    _description = "Note"
    _order = "id desc"
    _rec_name = "title"

    title = fields.Char(required=True, index=True)
    body = fields.Text()
    state = fields.Selection([("open", "Open"), ("done", "Done")], default="open", required=True)
    due_date = fields.Date()
    active = fields.Boolean(default=True)

    def action_done(self):
        self.write({"state": "done"})
