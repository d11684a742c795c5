"""What the dashboard shows of callers: what they ask for, what they get, how long they wait.

A panel's description says what is good, and what to do where it is not.

Owns: the questions, and the words around them.
Does not know: what is behind the gateway (``panels_behind``) or in it (``panels_inside``).
"""

from __future__ import annotations

from typing import Final

from deploy.watch.panels import (
    ANSWERS,
    CALLS,
    FAILED,
    GATEWAYS,
    PIPELINES,
    SERVED,
    STREAMS,
    UPSTREAMS,
    Panel,
    Row,
    quantile,
    quantiles,
    rate,
)

AT_A_GLANCE: Final = Row(
    "At a glance",
    (
        Panel(
            "Failing now",
            "The share of what was served that failed, no fault of the caller's. Good: under 0.5 "
            "%. Else: which pipeline and which outcome is below; then the runbook, "
            "PipelineGatewayErrorBudgetBurnsFast.",
            "percentunit",
            (
                (
                    f"sum(rate(gateway_requests_total{{{CALLS}, {FAILED}}}[5m])) / "
                    f"sum(rate(gateway_requests_total{{{CALLS}, {SERVED}}}[5m]))",
                    "failing",
                ),
            ),
            kind="stat",
            width=4,
            bad=(0.005, 0.05),
        ),
        Panel(
            "Budget left of 30 days",
            "What is left of the 0.5 % that may fail in 30 days. Good: more than the part of the "
            "month that is left. At 0 nothing is to be risked. From the rules in alerts.yaml.",
            "percentunit",
            (
                (
                    "clamp_min(1 - sum(sum_over_time(pipeline:gateway_request_failures:rate5m"
                    f"{{{PIPELINES}}}[30d])) / sum(sum_over_time(pipeline:gateway_requests_served"
                    f":rate5m{{{PIPELINES}}}[30d])) / 0.005, 0)",
                    "left",
                ),
            ),
            kind="stat",
            width=4,
            bad=(0.5, 0.1),
        ),
        Panel(
            "Requests a second",
            "All requests for pipelines, executions and webhooks that have ended. Good: as usual "
            "at this hour. None at all: do clients reach the gateway? Look at ready replicas.",
            "reqps",
            ((f"sum(rate(gateway_requests_total{{{CALLS}}}[$__rate_interval]))", "requests"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Streams open",
            "Streams to clients that are open now. Each takes two sockets of those that the system "
            "allows: see open files below.",
            "short",
            ((f"sum(gateway_streams_open{{{PIPELINES}}})", "streams"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Upstreams down",
            "Upstreams of which no replica had a good answer lately. Good: 0. Else: which, and "
            "since when, is under Upstreams; then the runbook, PipelineGatewayUpstreamDown.",
            "short",
            ((f"sum(1 - max by (upstream) (gateway_upstream_up{{{UPSTREAMS}}}))", "down"),),
            kind="stat",
            width=4,
            bad=(1, 2),
        ),
        Panel(
            "Replicas ready",
            "How many replicas answered their last /readyz with 200; where nobody asks for that, "
            "there is nothing. Good: all. 0: nothing is routed to any, see "
            "PipelineGatewayNotReady.",
            "short",
            ((f"sum(gateway_ready{{{GATEWAYS}}})", "ready"),),
            kind="stat",
            width=4,
            bad=(1, 0.5),
        ),
    ),
)

CALLERS: Final = Row(
    "What callers see",
    (
        Panel(
            "Requests by pipeline",
            "Requests that have ended; - is what names no pipeline. One that drops to nothing "
            "while the others go on: its callers have a problem, or cannot get in (401, 403).",
            "reqps",
            ((rate("gateway_requests_total", CALLS, "pipeline"), "{{pipeline}}"),),
        ),
        Panel(
            "Requests by outcome",
            "How requests ended. rejected is their own fault or a full queue, client_gone their "
            "own will. upstream_error and timeout: look at Upstreams. internal: at expressions, "
            'and for "internal error" in the log. shut_down: a gateway stopped before they were '
            "done.",
            "reqps",
            ((rate("gateway_requests_total", CALLS, "outcome"), "{{outcome}}"),),
            stacked=True,
        ),
        Panel(
            "Failing, by pipeline",
            "The share of what was served that failed. Good: under 0.5 %; that is the goal that "
            "the alerts hold it to. Else: the log's lines of that pipeline have code and error.",
            "percentunit",
            (
                (
                    f"{rate('gateway_requests_total', f'{CALLS}, {FAILED}', 'pipeline')} / "
                    f"{rate('gateway_requests_total', f'{CALLS}, {SERVED}', 'pipeline')}",
                    "{{pipeline}}",
                ),
            ),
            most=1,
        ),
        Panel(
            "Time to the answer",
            "From the request's head to the end of its answer; streams are left out, which last as "
            "long as they like. Nearly all of it is the upstream's: compare with Overhead.",
            "s",
            quantiles("gateway_request_duration_seconds", ANSWERS),
        ),
        Panel(
            "Time to the answer, by pipeline (p95)",
            "What nineteen of twenty answers of a pipeline stay below. One pipeline alone has "
            "become slow: its upstream has. All have: see Overhead.",
            "s",
            (
                (
                    quantile(0.95, "gateway_request_duration_seconds", ANSWERS, "pipeline"),
                    "{{pipeline}}",
                ),
            ),
        ),
        Panel(
            "Overhead",
            "Time in the gateway itself, waiting for upstreams and clients not counted. Good: p99 "
            "under 25 ms where expressions are small. Else: is a processor full (a worker uses "
            "one)? Large bodies, large expressions (below)? More workers, or more replicas.",
            "s",
            quantiles("gateway_overhead_seconds", CALLS),
        ),
        Panel(
            "First event",
            "How long streams wait for their first event. Good: what your pipelines usually take. "
            "Else: see first event by upstream; a queue (waiting) counts as well.",
            "s",
            quantiles("gateway_first_event_seconds", STREAMS),
        ),
        Panel(
            "First event, by pipeline (p95)",
            "What nineteen of twenty streams of a pipeline wait at most.",
            "s",
            ((quantile(0.95, "gateway_first_event_seconds", STREAMS, "pipeline"), "{{pipeline}}"),),
        ),
        Panel(
            "Requests by dialect and mode",
            "Which clients there are. A mode that is new here has a new client.",
            "reqps",
            ((rate("gateway_requests_total", CALLS, "dialect", "mode"), "{{dialect}} {{mode}}"),),
        ),
    ),
)

TRAFFIC: Final = Row(
    "Streams and bytes",
    (
        Panel(
            "Streams open, by pipeline",
            "Streams to clients that are open now. It should fall as it rises: where it only "
            "rises, clients do not let go of streams, or upstreams do not end them (idle_s ends "
            "those).",
            "short",
            ((f"sum by (pipeline) (gateway_streams_open{{{PIPELINES}}})", "{{pipeline}}"),),
        ),
        Panel(
            "Events a second",
            "Events written to clients. Streams open and no events: the upstream is silent.",
            "cps",
            ((rate("gateway_stream_events_total", PIPELINES, "pipeline"), "{{pipeline}}"),),
        ),
        Panel(
            "Streams resumed",
            "Streams of executions that were attached to again behind an event. Many: something "
            "between clients and gateways cuts connections, such as a proxy's idle timeout that is "
            "shorter than server.heartbeat_s.",
            "cps",
            (
                (
                    f"sum(rate(gateway_resumed_streams_total{{{GATEWAYS}}}[$__rate_interval]))",
                    "resumed",
                ),
            ),
        ),
        Panel(
            "Bytes in and out",
            "Bodies of requests, inflated, and of answers; streams and /metrics itself included.",
            "Bps",
            (
                (f"sum(rate(gateway_request_bytes_sum{{{PIPELINES}}}[$__rate_interval]))", "in"),
                (f"sum(rate(gateway_response_bytes_sum{{{PIPELINES}}}[$__rate_interval]))", "out"),
            ),
        ),
        Panel(
            "Size of requests, by pipeline (p95)",
            "What nineteen of twenty bodies stay below; buckets are powers of 16, so take it for "
            "its order of magnitude. bounds.body_bytes_max ends what is longer with 413.",
            "bytes",
            ((quantile(0.95, "gateway_request_bytes", PIPELINES, "pipeline"), "{{pipeline}}"),),
        ),
        Panel(
            "Size of answers, by pipeline (p95)",
            "What nineteen of twenty answers stay below; its order of magnitude.",
            "bytes",
            ((quantile(0.95, "gateway_response_bytes", PIPELINES, "pipeline"), "{{pipeline}}"),),
        ),
    ),
)
