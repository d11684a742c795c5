"""What the dashboard shows of what is behind the gateway: upstreams, actors, expressions.

Owns: the questions, and the words around them.
Does not know: what callers see of it (``panels_callers``), the gateway's own (``panels_inside``).
"""

from __future__ import annotations

from typing import Final

from deploy.watch.panels import (
    BREAKER,
    PIPELINES,
    UPSTREAMS,
    YES_NO,
    Panel,
    Row,
    quantile,
    quantiles,
    rate,
    seldom,
)

BEHIND: Final = Row(
    "Upstreams",
    (
        Panel(
            "Answers well",
            "Whether an upstream's last answer was good, as the replica has it that sees it worst. "
            "no: ask /readyz, which says in words what is wrong.",
            "short",
            ((f"min by (upstream) (gateway_upstream_up{{{UPSTREAMS}}})", "{{upstream}}"),),
            kind="state-timeline",
            width=12,
            states=YES_NO,
        ),
        Panel(
            "Breaker",
            "Open: it failed too often and is left alone, its callers get 503 at once; half open: "
            'one call tries it. The log says why, at "upstream left alone".',
            "short",
            ((f"max by (upstream) (gateway_upstream_breaker{{{UPSTREAMS}}})", "{{upstream}}"),),
            kind="state-timeline",
            width=12,
            states=BREAKER,
        ),
        Panel(
            "Calls by upstream",
            "Calls to upstreams that have ended, however that was.",
            "reqps",
            ((rate("gateway_upstream_requests_total", UPSTREAMS, "upstream"), "{{upstream}}"),),
        ),
        Panel(
            "Calls that failed",
            "By upstream and how. upstream_error: it refused, broke off, or could not be reached; "
            "timeout: one of the pipeline's timeouts ran out; rejected: it found fault with the "
            "request, which is the caller's. Good: none.",
            "reqps",
            (
                (
                    seldom(
                        "gateway_upstream_requests_total",
                        f'{UPSTREAMS}, outcome!~"complete|client_gone|superseded"',
                        *("upstream", "outcome"),
                    ),
                    "{{upstream}} {{outcome}}",
                ),
            ),
        ),
        Panel(
            "Latency, by upstream (p95)",
            "From the call to the end of the answer, streams included: compare with itself of "
            "yesterday.",
            "s",
            (
                (
                    quantile(0.95, "gateway_upstream_duration_seconds", UPSTREAMS, "upstream"),
                    "{{upstream}}",
                ),
            ),
        ),
        Panel(
            "Latency of all",
            "From the call to the end of the answer, of all upstreams that are chosen above.",
            "s",
            quantiles("gateway_upstream_duration_seconds", UPSTREAMS),
        ),
        Panel(
            "First event, by upstream (p95)",
            "From the call to the first sign of life. It is what a stream's caller waits for.",
            "s",
            (
                (
                    quantile(0.95, "gateway_upstream_first_event_seconds", UPSTREAMS, "upstream"),
                    "{{upstream}}",
                ),
            ),
        ),
        Panel(
            "Calls that run",
            "Calls of an upstream that run now. Flat at concurrency.running_max: it is full.",
            "short",
            ((f"sum by (upstream) (gateway_upstream_running{{{UPSTREAMS}}})", "{{upstream}}"),),
        ),
        Panel(
            "Calls that wait",
            "Calls that wait for their turn. Good: 0, or soon 0 again. Else the upstream is slower "
            "than it is asked: see its latency, then concurrency in the configuration.",
            "short",
            ((f"sum by (upstream) (gateway_upstream_waiting{{{UPSTREAMS}}})", "{{upstream}}"),),
            width=6,
        ),
        Panel(
            "Calls turned away",
            "Calls that were not made. breaker: it is open. queue: too many wait already; wait: "
            "one waited too long; both are a 503 for the caller. Good: none.",
            "reqps",
            (
                (
                    seldom("gateway_upstream_refused_total", UPSTREAMS, "upstream", "reason"),
                    "{{upstream}} {{reason}}",
                ),
            ),
            width=6,
        ),
        Panel(
            "Retries",
            "Calls that were made again. Good: few. Many: the upstream refuses connections or says "
            "429 or 503; what is retried well, callers do not see, and it costs time.",
            "reqps",
            ((rate("gateway_upstream_retries_total", UPSTREAMS, "upstream"), "{{upstream}}"),),
            width=6,
        ),
        Panel(
            "Calls given up",
            "Calls whose caller has gone, and those that another upstream was faster than (race, "
            "hedge). They cost the upstream work that nobody takes.",
            "reqps",
            (
                (
                    rate(
                        "gateway_upstream_requests_total",
                        f'{UPSTREAMS}, outcome=~"client_gone|superseded"',
                        *("upstream", "outcome"),
                    ),
                    "{{upstream}} {{outcome}}",
                ),
            ),
            width=6,
        ),
    ),
)

ACTORS: Final = Row(
    "Actors and expressions",
    (
        Panel(
            "Taken upstream, by actor",
            "Where an actor names several upstreams: which one its content came from. A fallback "
            "that is taken more than seldom says that the first one fails.",
            "reqps",
            (
                (
                    rate("gateway_actor_taken_total", PIPELINES, "pipeline", "actor", "upstream"),
                    "{{pipeline}}/{{actor}}: {{upstream}}",
                ),
            ),
        ),
        Panel(
            "Actors that failed",
            "Of pipelines of layers, whether the run went on or not (on_error). Good: none. The "
            "code is the one in README.md, Errors; the request's log line has actors_failed.",
            "reqps",
            (
                (
                    rate("gateway_actor_failures_total", PIPELINES, "pipeline", "actor", "code"),
                    "{{pipeline}}/{{actor}}: {{code}}",
                ),
            ),
        ),
        Panel(
            "Expressions that failed",
            "By pipeline, stage and reason. client: the caller's own, and the caller's to mend. "
            "All others are the configuration's, and a 500 for the caller. Good: none.",
            "cps",
            (
                (
                    seldom(
                        "gateway_transform_errors_total", PIPELINES, "pipeline", "stage", "reason"
                    ),
                    "{{pipeline}} {{stage}}: {{reason}}",
                ),
            ),
        ),
        Panel(
            "Time of an expression (p95)",
            "One evaluation, by pipeline and stage; the wait for a process included, where the "
            "input is large or the expression a caller's. Good: under 1 ms for events.",
            "s",
            (
                (
                    quantile(
                        0.95, "gateway_transform_duration_seconds", PIPELINES, "pipeline", "stage"
                    ),
                    "{{pipeline}} {{stage}}",
                ),
            ),
            width=12,
        ),
        Panel(
            "Time spent on expressions",
            "Seconds of evaluation for each second, by pipeline and stage. What comes near to 1 "
            "fills a worker's processor.",
            "percentunit",
            (
                (
                    seldom(
                        "gateway_transform_duration_seconds_sum", PIPELINES, "pipeline", "stage"
                    ),
                    "{{pipeline}} {{stage}}",
                ),
            ),
            width=12,
        ),
    ),
)
