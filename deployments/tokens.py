"""API tokens: who they act for, what they may do in which projects, until when; and the answers that are kept for who
asks a second time."""

import hashlib
import secrets
from datetime import timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models
from django.db.models import Q, QuerySet
from django.utils import timezone

from ocore.errors import ExpectedError
from projects.models import Project

MARK = "ocore_"
"""What every token begins with, so that people and scanners of secrets know one when they see it."""
DAYS = 90
MOST_DAYS = 366
USE_NOTED = timedelta(minutes=5)
"""So much later a further use is written down; not at each call."""


class TokenRefused(ExpectedError):
    """It could not be made or revoked; nothing was changed."""


class Verb(models.TextChoices):
    """What a token is for. Each needs its user's permissions besides."""

    READ = "read", "Read"
    DEPLOY = "deploy", "Deploy"
    CANCEL = "cancel", "Cancel"
    ROLL_BACK = "roll_back", "Roll back"
    LOCK = "lock", "Lock and unlock"


class ApiToken(models.Model):
    """Lets a program act for a user, and never do more than that user may at that moment. The row holds no secret: what
    was shown once is 256 random bits, of which it knows the SHA-256."""

    name = models.CharField(max_length=100)
    """Who uses it, for what: such as “CI of acme”."""
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="api_tokens")
    """None: the account is gone, and so is whatever the token could do."""
    prefix = models.CharField(max_length=20, editable=False)
    """How it begins, so that people can tell which one they have; no part of the 256 bits."""
    digest = models.CharField(max_length=64, unique=True, editable=False)
    verbs = models.JSONField(default=list)
    every_project = models.BooleanField(default=False)
    """Also those that there are not yet."""
    projects = models.ManyToManyField(Project, blank=True, related_name="api_tokens")
    made_at = models.DateTimeField(default=timezone.now, editable=False)
    made_by = models.CharField(max_length=200, editable=False)
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_by = models.CharField(max_length=200, blank=True, editable=False)

    class Meta:
        ordering = ["-pk"]
        verbose_name = "API token"
        default_permissions = ("add", "view")
        permissions = [("revoke_apitoken", "Can revoke everybody's API tokens")]

    def __str__(self) -> str:
        return f"API token “{self.name}” ({self.prefix}…)"

    @property
    def expired(self) -> bool:
        return self.expires_at <= timezone.now()

    @property
    def valid(self) -> bool:
        """Whoever may not work in the portal any more has no token either."""
        return self.revoked_at is None and not self.expired and self.user is not None and may_have_one(self.user)

    @property
    def owner(self) -> str:
        return self.user.get_username() if self.user else "nobody any more"

    @property
    def reach(self) -> QuerySet[Project]:
        return Project.objects.all() if self.every_project else self.projects.all()


class KeptAnswer(models.Model):
    """What a call with an `Idempotency-Key` was answered, for who sends it again."""

    token = models.ForeignKey(ApiToken, on_delete=models.CASCADE, related_name="answers")
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)
    """Of the request: method, path and body."""
    status = models.PositiveSmallIntegerField(default=0)
    content = models.TextField(blank=True)
    location = models.CharField(max_length=500, blank=True)
    made_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["token", "key"], name="kept_answer_key_unique_in_token")]


def may_have_one(user: User) -> bool:
    return user.is_active and user.is_staff


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> tuple[str, str]:
    """A prefix to show, and the whole, which is shown once."""
    prefix = f"{MARK}{secrets.token_hex(4)}"
    return prefix, f"{prefix}_{secrets.token_urlsafe(32)}"


def make(
    user: User, made_by: str, *, name: str, verbs: list[str], projects: list[Project] | None, days: float = DAYS
) -> tuple[ApiToken, str]:
    """The row, and the token itself, which nobody can find out again. `projects` None: every one."""
    name = " ".join(name.split())
    if not name:
        raise TokenRefused("A token needs a name.", advice="Say who uses it, and for what.")
    if not verbs or set(verbs) - set(Verb.values):
        raise TokenRefused("A token needs to be for something.", advice=f"Choose of {', '.join(Verb.values)}.")
    if projects is not None and not projects:
        raise TokenRefused("A token needs projects in which it holds.", advice="Name them, or say that it is all.")
    if not 0 < days <= MOST_DAYS:
        raise TokenRefused(f"A token is valid for up to {MOST_DAYS} days, not for {days:g}.")
    if not may_have_one(user):
        raise TokenRefused(
            f"{user.get_username()} may not work in the portal, so a token of theirs could do nothing.",
            advice="Make the account an active staff account, with the permissions that it needs.",
        )
    prefix, secret = new_secret()
    token = ApiToken.objects.create(
        name=name[:100],
        user=user,
        prefix=prefix,
        digest=digest_of(secret),
        verbs=[verb for verb in Verb.values if verb in verbs],
        every_project=projects is None,
        made_by=made_by[:200],
        expires_at=(timezone.now() + timedelta(days=days)).replace(microsecond=0),
    )
    token.projects.set(projects or [])
    return token, secret


def find(secret: str) -> ApiToken | None:
    """The valid token that was shown as this. By its digest, so that no comparison tells how near a guess is."""
    token = ApiToken.objects.select_related("user").filter(digest=digest_of(secret)).first()
    return token if token and token.valid else None


def unexpired(rows: QuerySet[ApiToken]) -> QuerySet[ApiToken]:
    """Those that are good, if their user still is."""
    return rows.filter(revoked_at=None, expires_at__gt=timezone.now())


def note_use(token: ApiToken) -> None:
    now = timezone.now()
    if token.last_used_at is None or token.last_used_at < now - USE_NOTED:
        rows = ApiToken.objects.filter(Q(last_used_at=None) | Q(last_used_at__lt=now - USE_NOTED), pk=token.pk)
        rows.update(last_used_at=now)


def revoke(token: ApiToken, who: str) -> None:
    """From the next call on it is nobody's."""
    now = timezone.now()
    if not ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=now, revoked_by=who[:200]):
        raise TokenRefused(f"{token} is revoked already.")
    token.refresh_from_db()


def forget_old_answers(**of: object) -> None:
    """Of one token where a key of its is looked for; the clock's of all."""
    old = timezone.now() - timedelta(hours=settings.OCORE_API_ANSWER_HOURS)
    KeptAnswer.objects.filter(made_at__lt=old, **of).delete()
