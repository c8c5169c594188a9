//! What traffic tells of backends, as metrics: the datapath has counted it, so it is told as it is.

use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use shunt_core::signal::ConnectTimes;

use super::metrics::Labels;

/// No backend answers faster: shorter times share a bucket.
const FINEST: Duration = Duration::from_micros(16);

/// Registers what is told of each pair; `name` names the listener's cluster.
pub fn register(registry: &mut Registry, told: Vec<ConnectTimes>, name: impl Fn(&ConnectTimes) -> Option<String>) {
    let signals = Family::<Labels, Counter>::default();
    let mut times = Times(Vec::new());
    for pair in told {
        let Some(cluster) = name(&pair) else { continue };
        let labels =
            vec![("cluster", cluster), ("listener", pair.listener.to_string()), ("backend", pair.backend.to_string())];
        let counts = [
            ("syn", pair.counts.syns),
            ("syn_ack", pair.counts.syn_acks),
            ("syn_again", pair.counts.syns_again),
            ("data_again", pair.counts.data_again),
            ("refused", pair.counts.refused),
            ("reset", pair.counts.resets),
        ];
        for (signal, count) in counts {
            let labels = [labels.clone(), vec![("signal", signal.to_owned())]].concat();
            signals.get_or_create(&labels).inc_by(count);
        }
        times.0.push((labels, pair));
    }
    registry.register("backend_signals", "Packets that tell how a backend answers its clients", signals);
    registry.register("connect_duration_seconds", "From a client's SYN to the backend's SYN-ACK", times);
}

#[derive(Debug)]
struct Times(Vec<(Labels, ConnectTimes)>);

impl EncodeMetric for Times {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (labels, pair) in &self.0 {
            let buckets = coarse(&pair.buckets);
            let count = buckets.iter().map(|(_, count)| count).sum();
            let mut encoder = encoder.encode_family(labels)?;
            encoder.encode_histogram::<NoLabelSet>(pair.total.as_secs_f64(), count, &buckets, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// Bounds in seconds, and how many came in below; the last one has no bound.
fn coarse(buckets: &[(Duration, u64)]) -> Vec<(f64, u64)> {
    let (fine, rest): (Vec<_>, Vec<_>) = buckets.iter().partition(|(bound, _)| *bound < FINEST);
    let mut coarse: Vec<_> = rest.into_iter().map(|(bound, count)| (bound.as_secs_f64(), count)).collect();
    if let Some(first) = coarse.first_mut() {
        first.1 += fine.into_iter().map(|(_, count)| count).sum::<u64>();
    }
    if let Some(last) = coarse.last_mut() {
        last.0 = f64::MAX;
    }
    coarse
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use shunt_core::signal::Counts;

    use super::*;

    #[test]
    fn a_pair_is_told_with_its_signals_and_its_times() {
        let pair = ConnectTimes {
            listener: "10.0.0.2:3306".parse().unwrap(),
            backend: "10.0.0.11:3306".parse().unwrap(),
            buckets: [(8, 1), (16, 2), (32, 4), (64, 1)].map(|(us, count)| (Duration::from_micros(us), count)).into(),
            total: Duration::from_micros(300),
            counts: Counts { syns: 9, syn_acks: 8, refused: 1, ..Counts::default() },
        };
        let unknown = ConnectTimes { listener: "10.0.0.3:3306".parse().unwrap(), ..pair.clone() };
        let mut registry = Registry::with_prefix("shunt");
        let cluster = |told: &ConnectTimes| (told.listener == pair.listener).then(|| "orders".to_owned());
        register(&mut registry, vec![pair.clone(), unknown], cluster);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let of = r#"cluster="orders",listener="10.0.0.2:3306",backend="10.0.0.11:3306""#;
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), 6 + 2 + 3, "{text}");
        for line in [
            format!(r#"shunt_backend_signals_total{{{of},signal="syn"}} 9"#),
            format!(r#"shunt_backend_signals_total{{{of},signal="refused"}} 1"#),
            format!("shunt_connect_duration_seconds_sum{{{of}}} 0.0003"),
            format!("shunt_connect_duration_seconds_count{{{of}}} 8"),
            format!(r#"shunt_connect_duration_seconds_bucket{{le="0.000016",{of}}} 3"#),
            format!(r#"shunt_connect_duration_seconds_bucket{{le="+Inf",{of}}} 8"#),
        ] {
            assert!(lines.contains(&line.as_str()), "{line} is not in\n{text}");
        }
    }
}
