//! Alerts about the injector: whether pods that ask for a sidepool get one.

use super::Alert;
use super::Severity::{Critical, Warning};

/// Why the injector's own metrics may be missing.
const ELSEWHERE: &str = "the injector exports it, and not a sidepool that serves";

/// The injector.
pub(super) const ALERTS: &[Alert] = &[
    Alert {
        name: "SidepoolInjectorFailOpen",
        severity: Warning,
        lasting: "0m",
        signal: "increase(apiserver_admission_webhook_fail_open_count{name=~\".*sidepool.*\"}[15m])",
        condition: "> 0",
        only_if: "",
        silent_because: "the API server counts it, and only once it has happened",
        summary: "The API server let {{ $value | humanize }} pods in without asking the injector.",
        cause: "The webhook did not answer and its failurePolicy is Ignore: pods that asked for a sidepool run without one.",
        look: &[
            "Pods with the label `sidepool.dev/inject` and without a container `sidepool`.",
            "The injector's pods and its certificate.",
        ],
        act: &[
            "Bring the injector back, restart those pods.",
            "`failurePolicy: Fail` (only pods with the label are concerned) keeps it from happening.",
        ],
    },
    Alert {
        name: "SidepoolInjectorCertificateExpires",
        severity: Critical,
        lasting: "15m",
        signal: "sidepool_injector_cert_not_after_timestamp_seconds - time()",
        condition: "< 7 * 86400",
        only_if: "",
        silent_because: ELSEWHERE,
        summary: "The certificate of the injector {{ $labels.instance }} ends in {{ $value | humanizeDuration }}.",
        cause: "The certificate that the API server is met with ends within a week; a time in the distant past means that there is none that can be used. From then on the API server cannot ask: with failurePolicy Fail pods with the label are not created, with Ignore they run without a sidepool.",
        look: &[
            "`kubectl describe certificate` where cert-manager issues it: Ready, and when it renews.",
            "`sidepool_injector_cert_loads_total{result=\"failed\"}` and the injector's log: a new one that cannot be used.",
        ],
        act: &[
            "Renew it and put it in place; it is read by itself, without a restart.",
            "Where it is one of your own: the webhook's `caBundle` has to vouch for the new one as well.",
        ],
    },
    Alert {
        name: "SidepoolInjectorCertificateRejected",
        severity: Critical,
        lasting: "0m",
        signal: "increase(sidepool_injector_cert_loads_total{result=\"failed\"}[15m])",
        condition: "> 0",
        only_if: "",
        silent_because: ELSEWHERE,
        summary: "The injector {{ $labels.instance }} cannot use the certificate that it was given ({{ $value | humanize }} attempts).",
        cause: "The files of the certificate have changed and cannot be used: the key does not fit, or a file is missing or cut. The one before stays in force until it ends.",
        look: &["The injector's log has the reason.", "The Secret that is mounted: `tls.crt` and `tls.key` belong together."],
        act: &["Put a certificate in place with the key that belongs to it; it is read by itself."],
    },
    Alert {
        name: "SidepoolInjectorHandshakesFail",
        severity: Critical,
        lasting: "10m",
        signal: "rate(sidepool_injector_handshake_failures_total[5m])",
        condition: "> 0.05",
        only_if: "",
        silent_because: ELSEWHERE,
        summary: "{{ $value | humanize }} TLS handshakes a second with the injector {{ $labels.instance }} come to nothing.",
        cause: "Whoever connects does not trust the certificate, most often the API server after the authority has changed; or something that speaks no TLS (a probe, a port scan) knocks at the webhook's port.",
        look: &[
            "The API server's log: `failed calling webhook … x509`.",
            "`kubectl get mutatingwebhookconfiguration -o yaml`: does `caBundle` vouch for the certificate in force?",
            "The Service's name is in the certificate (`NAME.NAMESPACE.svc`).",
        ],
        act: &[
            "Mend `caBundle` (cert-manager's cainjector does it by the annotation), or issue the certificate for the Service's name.",
            "Point probes at the port of the metrics, which speaks no TLS.",
        ],
    },
    Alert {
        name: "SidepoolInjectorErrors",
        severity: Critical,
        lasting: "0m",
        signal: "increase(sidepool_injector_requests_total{result=\"error\"}[15m])",
        condition: "> 0",
        only_if: "",
        silent_because: ELSEWHERE,
        summary: "The injector {{ $labels.instance }} did not understand {{ $value | humanize }} questions.",
        cause: "What came is no AdmissionReview of a version and kind that the injector knows: the webhook's rules name something else than pods, or somebody else asks.",
        look: &[
            "The injector's log has the reason.",
            "`kubectl get mutatingwebhookconfiguration -o yaml`: `rules` and `admissionReviewVersions`.",
        ],
        act: &["Bring the webhook's configuration in line with `deploy/kustomize/injector`."],
    },
    Alert {
        name: "SidepoolInjectorRejects",
        severity: Warning,
        lasting: "0m",
        signal: "increase(sidepool_injector_requests_total{result=\"rejected\"}[15m])",
        condition: "> 0",
        only_if: "",
        silent_because: ELSEWHERE,
        summary: "The injector {{ $labels.instance }} has denied {{ $value | humanize }} pods.",
        cause: "A pod asks for something that cannot be: a typing mistake in an annotation, a variable that is not there, a port that is taken. It is not created, and its Deployment or Job tries again and again.",
        look: &[
            "`kubectl get events --field-selector reason=FailedCreate -A` has the injector's words, and so has its log.",
            "`sidepool inject -f` with the same manifest says the same.",
        ],
        act: &["Mend the annotation; the words say which one, what is wrong, and what was probably meant."],
    },
];
