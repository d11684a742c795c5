"""What the dashboard shows of the gateway itself: executions, webhooks, processes, configuration.

Owns: the questions, and the words around them.
Does not know: what callers see (``panels_callers``), what is behind it (``panels_behind``).
"""

from __future__ import annotations

from typing import Final

from deploy.watch.panels import (
    GATEWAYS,
    LOADED,
    YES_NO,
    Panel,
    Row,
    quantile,
    quantiles,
    rate,
    seldom,
)

EXECUTIONS: Final = Row(
    "Executions and webhooks",
    (
        Panel(
            "Executions, by status",
            "Of all replicas together; what has ended stays for executions.retention_days. Good: "
            "QUEUED falls as it rises. Where the configuration has no executions:, this is empty.",
            "short",
            ((f"sum by (status) (gateway_executions{{{GATEWAYS}}})", "{{status}}"),),
        ),
        Panel(
            "Age of the queue",
            "How long the run that is next has waited. Good: seconds. Else nobody takes runs, or "
            "too few do: executions.concurrency times replicas is what runs at once.",
            "s",
            ((f"max(gateway_execution_oldest_queued_seconds{{{GATEWAYS}}})", "oldest"),),
        ),
        Panel(
            "Time in the queue",
            "From a run's acceptance to its beginning. Good: seconds. Else see its age.",
            "s",
            quantiles("gateway_execution_queue_seconds", GATEWAYS),
        ),
        Panel(
            "Duration, by status (p95)",
            "From a run's beginning to its end: nearly all of it is the upstreams'. Compare it "
            "with their latency.",
            "s",
            (
                (
                    quantile(0.95, "gateway_execution_duration_seconds", GATEWAYS, "status"),
                    "{{status}}",
                ),
            ),
        ),
        Panel(
            "Runs that ended",
            "By status. FAILED: `pipeline-gateway executions show ID` says why. Good: few.",
            "cps",
            ((rate("gateway_execution_duration_seconds_count", GATEWAYS, "status"), "{{status}}"),),
            stacked=True,
        ),
        Panel(
            "Runs begun again",
            "Because the gateway that ran them had died, since each was started. Good: flat. A "
            "step: a process was killed, for its memory perhaps.",
            "short",
            (
                (
                    f"sum by (instance) (gateway_execution_recovered_total{{{GATEWAYS}}})",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Store answers",
            "Whether the store of executions answers, as each replica sees it. no: submissions get "
            "503, and what runs waits with what it has to say; nothing is lost.",
            "short",
            ((f"min by (instance) (gateway_store_up{{{GATEWAYS}}})", "{{instance}}"),),
            kind="state-timeline",
            states=YES_NO,
        ),
        Panel(
            "Time of the store, by call (p95)",
            "Good: under 25 ms. Else: the disk (SQLite), or Redis and the way to it.",
            "s",
            ((quantile(0.95, "gateway_store_seconds", GATEWAYS, "operation"), "{{operation}}"),),
        ),
        Panel(
            "Size of event logs",
            "All events of all executions, in the store. It goes with them, after retention_days; "
            "executions.events_max bounds each.",
            "bytes",
            ((f"sum(gateway_event_log_bytes{{{GATEWAYS}}})", "logs"),),
        ),
        Panel(
            "Messages to webhooks",
            "failed are tried again; given_up are not. refused: the address is none that may be "
            "connected to (executions.hooks.allow_networks). disabled: the webhook was switched "
            "off, or removed.",
            "cps",
            ((rate("gateway_hook_deliveries_total", GATEWAYS, "outcome"), "{{outcome}}"),),
            width=12,
            stacked=True,
        ),
        Panel(
            "Time of a sending to a webhook",
            "With the answer. What is slow is the receiver, or the way to it.",
            "s",
            quantiles("gateway_hook_delivery_seconds", GATEWAYS),
            width=12,
        ),
    ),
)

ITSELF: Final = Row(
    "The gateway itself",
    (
        Panel(
            "Ready",
            "What /readyz said last. no: a required upstream does not answer, or the gateway "
            "stops; ask /readyz, which names it.",
            "short",
            ((f"min by (instance) (gateway_ready{{{GATEWAYS}}})", "{{instance}}"),),
            kind="state-timeline",
            states=YES_NO,
        ),
        Panel(
            "Last load of the configuration",
            "refused: the one before stays live, and the log names every mistake, at "
            '"configuration refused". Mend the file; it is loaded by itself, or by SIGHUP.',
            "short",
            ((f"min by (instance) (gateway_config_last_load_ok{{{GATEWAYS}}})", "{{instance}}"),),
            kind="state-timeline",
            states=LOADED,
        ),
        Panel(
            "Different configurations",
            "How many different ones are live. Good: 1, but for the minutes of a change.",
            "short",
            ((f'count(count_values("hash", gateway_config_hash{{{GATEWAYS}}}))', "different"),),
            kind="stat",
            width=4,
            bad=(2, 3),
        ),
        Panel(
            "Newest configuration",
            "How long ago the configuration was loaded that is live, where it was loaded last.",
            "s",
            ((f"min(time() - gateway_config_loaded_timestamp_seconds{{{GATEWAYS}}})", "ago"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Loads of the configuration",
            "How often each replica has tried, since it was started, and how that ended.",
            "short",
            (
                (
                    f"sum by (instance, result) (gateway_config_loads_total{{{GATEWAYS}}})",
                    "{{instance}} {{result}}",
                ),
            ),
        ),
        Panel(
            "Memory, by process",
            "Resident memory: of those that serve, of the one that keeps them, of the children for "
            "expressions. Good: level after an hour. Rising for hours: PipelineGatewayMemoryGrows.",
            "bytes",
            ((f"sum by (process) (gateway_memory_bytes{{{GATEWAYS}}})", "{{process}}"),),
            stacked=True,
        ),
        Panel(
            "Memory, by replica",
            "Resident memory of all processes of a replica; what they share counts for each, so "
            "that a container is charged less. Streams take some 20 KB each, files of requests "
            "their own size.",
            "bytes",
            ((f"sum by (instance) (gateway_memory_bytes{{{GATEWAYS}}})", "{{instance}}"),),
        ),
        Panel(
            "Open sockets and files",
            "As a share of what the system allows a process, in the fullest of a replica. At 100 % "
            "no connection is accepted. Raise the limit (ulimit -n), or add replicas.",
            "percentunit",
            ((f"max by (instance) (gateway_open_files_ratio{{{GATEWAYS}}})", "{{instance}}"),),
            bad=(0.6, 0.8),
            most=1,
        ),
        Panel(
            "Workers",
            "Processes that serve. Good: server.workers. Fewer: the log says what one has ended "
            'with, at "a worker has ended".',
            "short",
            ((f"sum by (instance) (gateway_workers{{{GATEWAYS}}})", "{{instance}}"),),
        ),
        Panel(
            "Workers started again",
            "In the place of one that had ended, since each replica was started. Good: flat.",
            "short",
            ((f"sum by (instance) (gateway_worker_restarts_total{{{GATEWAYS}}})", "{{instance}}"),),
        ),
        Panel(
            "Up since",
            "How long ago each replica was started. One that is always young is being killed.",
            "s",
            (
                (
                    f"time() - min by (instance) (gateway_started_timestamp_seconds{{{GATEWAYS}}})",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Versions",
            "How many replicas have which version. Two for more than the minutes of a rollout: it "
            "hangs.",
            "short",
            ((f"count by (version) (gateway_build_info{{{GATEWAYS}}})", "{{version}}"),),
        ),
        Panel(
            "Keys at their limits",
            "Requests that were refused with 429, by key and limit. It is the caller's to ask for "
            "less, or yours to allow more.",
            "reqps",
            ((rate("gateway_limited_total", GATEWAYS, "key", "limit"), "{{key}}: {{limit}}"),),
        ),
        Panel(
            "Traces",
            "Spans: sent, failed (the collector did not take them) or dropped (more than "
            "tracing.spans_max waited). Good: sent alone. Requests do not wait for any of it.",
            "cps",
            ((rate("gateway_trace_spans_total", GATEWAYS, "result"), "{{result}}"),),
            stacked=True,
            width=6,
        ),
        Panel(
            "Store of limits answers",
            "Whether the Redis answers in which keys' limits are counted. no: limits.when_away "
            "says what becomes of requests of limited keys; allow is the default. Without "
            "limits.store this is empty.",
            "short",
            ((f"min by (instance) (gateway_limits_store_up{{{GATEWAYS}}})", "{{instance}}"),),
            kind="state-timeline",
            states=YES_NO,
            width=6,
        ),
        Panel(
            "Certificates expire in",
            "How long each certificate is still good for. A new file is taken by itself. Good: "
            "more than two weeks.",
            "s",
            (
                (
                    "min by (instance, certificate) (gateway_certificate_expiry_timestamp_seconds"
                    f"{{{GATEWAYS}}}) - time()",
                    "{{instance}} {{certificate}}",
                ),
            ),
            bad=(1209600, 259200),
            width=6,
        ),
        Panel(
            "TLS that failed",
            "Connections of clients on which TLS did not come about, by reason. refused: the "
            "client does not accept the gateway's certificate. Many since a change: it was that.",
            "cps",
            ((seldom("gateway_tls_failed_total", GATEWAYS, "reason"), "{{reason}}"),),
            width=6,
        ),
    ),
)
