//! The service that every scenario uses: `web`, replicas of `weir whoami`, with traffic on it.

use crate::support;
use crate::support::process::Weir;
use crate::support::traffic::{Kind, Plan, Report, Traffic};
pub(crate) use crate::support::turns::{alone, beside, loaded};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How much of a scenario is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// How often the event happens.
    pub(crate) events: usize,
    /// Quick GETs a second.
    pub(crate) rate: f64,
    /// GETs a second that take a quarter of a second each, so that requests are in flight when a replica is hit.
    pub(crate) slow_rate: f64,
    /// Requests that are in flight at a victim before it is hit.
    pub(crate) in_flight: u64,
    /// Requests that are made at least.
    pub(crate) requests: u64,
}

impl Scale {
    /// GETs between one event and the next: the events are spread over the requests.
    pub(crate) fn between(self) -> u64 {
        (self.requests / self.events as u64).max(100)
    }
}

/// The promise's traffic: 2,000 quick GETs a second, and about 75 in flight, 25 at each of three replicas.
pub(crate) const FULL: Scale = Scale { events: 10, rate: 2_000.0, slow_rate: 300.0, in_flight: 20, requests: 0 };

/// A few events, gentle traffic.
pub(crate) const SHORT: Scale = Scale { events: 2, rate: 300.0, slow_rate: 40.0, in_flight: 2, requests: 0 };

/// What settles takes: start, first check; stop with its DNS answers aged out.
pub(crate) const SETTLED: Duration = Duration::from_secs(60);

/// Replicas that write down each POST.
pub(crate) fn services(replicas: usize, journal: &str) -> String {
    format!("[[route]]\nname = \"web\"\nservice = \"web\"\n\n{}", service("web", replicas, journal))
}

/// One service of `weir whoami`.
pub(crate) fn service(name: &str, replicas: usize, journal: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nreplicas = {replicas}\ndns_ttl = \"1s\"\n
[service.run]\ncommand = [\"${{WEIR}}\", \"whoami\", \"--listen\", \"127.0.0.1:${{PORT}}\", \"--journal\", \"{journal}\"]\n
[service.rollout]\nmin_healthy = \"1s\"\nprogress_deadline = \"10s\"\n
[service.health]\ntype = \"http\"\npath = \"/health\"\ninterval = \"1s\"\n\n"
    )
}

/// Weir with `web`, and traffic of GETs and some POSTs on it.
pub(crate) struct World {
    pub(crate) weir: Weir,
    pub(crate) gets: Traffic,
    slow: Traffic,
    posts: Traffic,
    journal: PathBuf,
    _journal_folder: support::process::Folder,
}

impl World {
    /// Starts Weir with 3 replicas and the traffic. What keeps requests in flight has connections of its own, so that the
    /// quick ones keep theirs free: a connection that is busy most of the time makes every pause of the machine last.
    pub(crate) async fn start(name: &str, scale: Scale) -> Self {
        let folder = support::process::Folder::new(&format!("{name}-journal"));
        let journal = folder.0.join("journal");
        let weir = Weir::start(name, &services(3, &journal.display().to_string())).await;
        weir.settled("web", 3, SETTLED).await;
        let gets = Traffic::start(Plan { rate: scale.rate, ..Plan::new(weir.http) });
        let slow = Traffic::start(Plan {
            rate: scale.slow_rate,
            keepalive: (scale.slow_rate / 2.0) as usize,
            fresh: 0,
            path: "/delay/250".to_owned(),
            first_tag: 1 << 41,
            ..Plan::new(weir.http)
        });
        let posts = Traffic::start(Plan {
            rate: 20.0,
            keepalive: 2,
            fresh: 2,
            method: "POST",
            path: "/delay/30".to_owned(),
            first_tag: 1 << 40,
            ..Plan::new(weir.http)
        });
        let world = Self { weir, gets, slow, posts, journal, _journal_folder: folder };
        world.passes(100).await;
        world
    }

    /// Waits until so many more GETs have passed.
    pub(crate) async fn passes(&self, more: u64) {
        let wanted = self.gets.passed() + more;
        support::eventually("GETs pass", Duration::from_secs(600), || async {
            (self.gets.passed() >= wanted).then_some(())
        })
        .await;
    }

    /// Waits until the scenario has made its requests.
    pub(crate) async fn fill(&self, scale: Scale) {
        let made = self.gets.passed();
        if made < scale.requests {
            self.passes(scale.requests - made).await;
        }
    }

    /// Waits for a ready instance with `least` requests in flight; returns its id and process.
    pub(crate) async fn victim(&self, least: u64) -> (String, u32) {
        support::eventually("a busy replica", Duration::from_secs(30), || async {
            let ready = self.weir.ready_instances("web").await;
            let busiest = ready.into_iter().max_by_key(|i| i["in_flight"].as_u64())?;
            let busy = busiest["in_flight"].as_u64()? >= least;
            busy.then(|| (busiest["id"].as_str().unwrap().to_owned(), busiest["pid"].as_u64().unwrap() as u32))
        })
        .await
    }

    /// Ends the traffic; checks that no POST was executed twice; prints and returns the reports.
    pub(crate) async fn stop(self, what: &str) -> Outcome {
        let (gets, slow, posts) = (self.gets.stop().await, self.slow.stop().await, self.posts.stop().await);
        for (kind, report) in [("GET", &gets), ("slow GET", &slow), ("POST", &posts)] {
            println!("{what}: {kind}: {}", report.line());
        }
        let mut printed: BTreeMap<Kind, usize> = BTreeMap::new();
        for failure in gets.failures.iter().chain(&slow.failures).chain(&posts.failures) {
            let count = printed.entry(failure.kind).or_default();
            *count += 1;
            if *count > 10 {
                continue;
            }
            println!("  {:?} t{} at {:.3} s: {}", failure.kind, failure.tag, failure.at.as_secs_f64(), failure.detail);
        }
        let mut executions: BTreeMap<String, usize> = BTreeMap::new();
        for line in std::fs::read_to_string(&self.journal).unwrap_or_default().lines() {
            *executions.entry(line.split(' ').next().unwrap().to_owned()).or_default() += 1;
        }
        let twice: Vec<_> = executions.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "POSTs executed more than once: {twice:?}");
        assert!(executions.len() as u64 >= posts.passed, "the journal has every POST that was answered");
        println!("{what}: {} POSTs executed, none twice", executions.len());
        Outcome { gets, slow, posts, weir: self.weir }
    }
}

/// What a scenario gave.
pub(crate) struct Outcome {
    pub(crate) gets: Report,
    pub(crate) slow: Report,
    pub(crate) posts: Report,
    pub(crate) weir: Weir,
}

impl Outcome {
    /// Asserts that no request failed.
    pub(crate) fn none_failed(&self) {
        for report in [&self.gets, &self.slow, &self.posts] {
            none_failed(report, &self.weir);
        }
    }
}

/// Asserts that no request failed but those whose answer had begun.
pub(crate) fn only_begun_answers_failed(report: &Report, weir: &Weir) {
    let begun = report.of(Kind::ResetInsideAnswer);
    assert_eq!(report.failed(), begun, "{:?}\n{}", report.failures, weir.log());
}

/// Asserts that no request failed.
pub(crate) fn none_failed(report: &Report, weir: &Weir) {
    assert_eq!(report.failed(), 0, "{:?}\n{}", report.failures, weir.log());
}
