//! Families of metrics that are read at each scrape and stored nowhere: what every collector of them needs.

use prometheus::core::Desc;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::HashMap;

/// One family: name, help, labels; those that count end in `_total`, the others are gauges.
pub type Family = (&'static str, &'static str, &'static [&'static str]);

/// Describes a family to the registry; `None`: its name or labels are none, which tests find.
pub fn describe((name, help, labels): &Family) -> Option<Desc> {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Desc::new((*name).to_owned(), (*help).to_owned(), labels, HashMap::new()).ok()
}

fn is_counter(family: &Family) -> bool {
    family.0.ends_with("_total")
}

/// Puts the metrics of a family together.
pub fn family(of: &Family, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(of.0.to_owned());
    family.set_help(of.1.to_owned());
    family.set_field_type(if is_counter(of) { MetricType::COUNTER } else { MetricType::GAUGE });
    family.set_metric(metrics);
    family
}

/// Makes one metric of a family; the labels with their values are in the order of their names.
pub fn metric(of: &Family, labels: &[(&str, &str)], value: f64) -> Metric {
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    let mut metric = Metric::default();
    metric.set_label(pairs.collect());
    if is_counter(of) {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}
