"""What happens by itself, and how often: read by `manage.py rqcron deployments.clock`."""

from django.conf import settings
from rq.cron import register

from deployments import jobs

RECONCILE_SECONDS = 10
KEEP_SECONDS = 5
EDGES_SECONDS = 10
REPORTS_SECONDS = 10
LOOK_AT_EDGES_SECONDS = 30

# A job that waited longer than its interval is dropped: the next one does the same.
for job, seconds in (
    (jobs.reconcile, RECONCILE_SECONDS),
    (jobs.keep_running, KEEP_SECONDS),
    (jobs.look_at_edges, LOOK_AT_EDGES_SECONDS),
    (jobs.probe_environments, settings.OCORE_PROBE_SECONDS),
    (jobs.hand_over_edges, EDGES_SECONDS),
    (jobs.look_at_certificates, settings.OCORE_CERTIFICATE_SECONDS),
):
    register(job, "chores", interval=seconds, ttl=seconds, result_ttl=0)
# Whoever tells the git hosts also looks for what is owed: a backlog keeps no chore waiting.
register(jobs.hand_over_reports, "reports", interval=REPORTS_SECONDS, ttl=REPORTS_SECONDS, result_ttl=0)
register(
    jobs.sweep_all,
    "slow",
    interval=settings.OCORE_RETENTION_SECONDS,
    ttl=settings.OCORE_RETENTION_SECONDS,
    result_ttl=0,
)
