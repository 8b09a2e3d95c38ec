//! A loaded configuration → running parts.
//!
//! Order: sockets first, so that a taken address changes nothing; then control with the first table in it; then those who
//! serve from it. Each worker gets a `table::Reader` and its own sockets.

use crate::admin::{self, NameServer, Rates, State, Upgrader};
use crate::app::addresses::{self, Route};
use crate::app::containers;
use crate::app::keyring::Keyring;
use crate::app::live::{Live, Sockets};
use crate::app::names::Resolver;
use crate::app::obtain;
use crate::app::reload::Reloader;
use crate::app::sources::{self, Following};
use crate::app::tickets::Book;
use crate::app::upgrade::Upgrades;
use crate::app::watch::Watch;
use crate::app::{Origin, RunOptions};
use crate::config::Loaded;
use crate::control::autoscale::{self, ScaleGauges};
use crate::control::certificates::{self, CertificateGauges};
use crate::control::configuration;
use crate::control::discovery::Definitions;
use crate::control::events::Events;
use crate::control::gauges::{ConfigurationGauges, Gauges};
use crate::control::plane::Control;
use crate::dns;
use crate::lifecycle::{self, Signal, Trigger};
use crate::model::OnExit;
use crate::net::{self, Binder};
use crate::proxy::{self, Tls};
use crate::spec::KeyPath;
use crate::table::certificates::Report;
use crate::table::{self, Snapshot, Table, names::Names};
use crate::telemetry::{AccessLog, Handshakes, LogOptions, Metrics};
use anyhow::Context;
use std::path::Path;
use tokio::task::JoinHandle;

/// Longest wait for the first checks of static endpoints before connections are accepted; one on this machine takes 5 ms.
const FIRST_CHECKS: std::time::Duration = std::time::Duration::from_millis(50);

/// Certificates are looked at again after this even when nothing tells of a change.
const KEYRING_LOOK: std::time::Duration = std::time::Duration::from_secs(3600);

/// What runs.
pub(super) struct Parts {
    /// The Weirs that this one follows, and what they are told.
    pub(super) following: Following,
    /// Leads the services' own addresses here.
    pub(super) route: Option<Route>,
    pub(super) trigger: Trigger,
    pub(super) live: Live,
    pub(super) control: Control,
    pub(super) dns: Option<dns::Server>,
    pub(super) admin: JoinHandle<()>,
    pub(super) configuration: configuration::Handle,
    pub(super) upgrader: Upgrader,
    /// Ends the admin API: later than the rest, or at once when another process has its sockets.
    pub(super) close_admin: Trigger,
    pub(super) metrics: Metrics,
}

/// Returns whether Weir did not start because somebody else answers at an address of its DNS server.
pub fn names_are_taken(error: &anyhow::Error) -> bool {
    let is_taken = |bind: &net::BindError| bind.source.kind() == std::io::ErrorKind::AddrInUse;
    error.downcast_ref().is_some_and(|error| matches!(error, dns::ServerError::Bind(bind) if is_taken(bind)))
}

/// Makes and starts every part.
pub(super) async fn build(
    mut loaded: Loaded,
    origin: Origin,
    options: RunOptions,
    binder: Binder,
) -> anyhow::Result<Parts> {
    let count = worker_count(&loaded);
    let written = loaded.clone();
    make_state_directory(&loaded.control.state)?;
    let mut route = loaded.control.service_addresses.map(Route::add).transpose()?;
    let mut listening = Sockets::bind(&loaded.listeners, count, options, binder.clone())?;
    loaded.listeners = listening.listeners();
    let doors = admin::bind(&loaded.admin, &binder, options.free_ports).context("admin")?;
    let bind_names = |wanted| dns::bind(wanted, &binder, options.free_ports).context("dns");
    let names = loaded.dns.as_ref().map(bind_names).transpose()?;
    let (trigger, signal) = lifecycle::drain();
    let metrics = Metrics::new();
    let access = access_log(&loaded.log, &metrics)?;
    let (tls, keyring) = keyring(&loaded, &metrics, &binder)?;
    let (publisher, table) = table::channel(first_snapshot(&loaded));
    let (events, fleet) = sources::fleet(&loaded, &table);
    let control =
        Control::start(&loaded.control, definitions(&loaded), events, publisher, table.clone(), signal.clone())
            .await
            .context("failed to start the control plane")?;
    control.earlier_ranges.iter().copied().for_each(addresses::remove);
    // Before the keeper hears that this process is ready, and closes what it did not ask for.
    listening.serve(&addresses::listeners(&table.load()), count);
    let certificates = obtain::start(&loaded, &control, &keyring, &table).await?;
    let following = sources::follow(&loaded, &control, fleet, (&table, &metrics)).await;
    control.first_checks(FIRST_CHECKS).await;
    let (configuration, desk) = configuration::channel(origin.status(table.load().generation));
    let upgrader = upgrader(&binder, &origin, &loaded);
    let state = State {
        upgrader: upgrader.clone(),
        certificates: keyring.report().clone(),
        obtained: Some(certificates.clone()),
        ..state(&loaded, &following, &control, (&metrics, &configuration), &signal)?
    };
    sources::show(&metrics, &state, doors.tokens())?;
    let (close_admin, closes) = lifecycle::drain();
    let answering = state.names.clone();
    let admin = tokio::spawn(admin::serve(doors, loaded.admin.clone(), state, closes));
    let serve = |(names, wanted)| serve_names((names, &keyring), wanted, &table, &metrics, &answering, &signal);
    let dns = names.zip(loaded.dns.as_ref()).map(serve).transpose()?;
    answer_containers(dns.as_ref(), &loaded, (&binder, &table), &signal).await;
    show_certificates(&metrics, &certificates)?;
    let (challenges, shown) = (keyring.challenges().clone(), metrics.clone());
    let parts = proxy::Parts { table: table.clone(), metrics: shown, access, tls, challenges };
    let workers = proxy::start(&loaded.proxy, listening.lend(count)?, parts, &signal);
    let live = Live::new(listening, workers.context("failed to start workers")?);
    let reloader = Reloader {
        current: written,
        listening: loaded.listeners,
        live: live.clone(),
        keyring: keyring.clone(),
        certificates,
        deployments: control.deployments.clone(),
        registry: control.registry.clone(),
        dns: dns.as_ref().map(dns::Server::live),
        events: control.events.clone(),
        table: table.clone(),
        desk,
        reader: origin.reader.clone(),
        last_good: origin.last_good,
        upgrader: upgrader.clone(),
        handed: None,
        refused: origin.refused,
    };
    tokio::spawn(watch_keyring(keyring, table.clone()));
    own(route.as_mut(), &live, (&table, &control.events), &signal);
    tokio::spawn(reloader.run(signal));
    follow_file(origin.watch, &configuration);
    Ok(Parts { route, trigger, live, control, dns, admin, configuration, upgrader, close_admin, metrics, following })
}

/// Leads the services' own addresses here, where they have any.
fn own(route: Option<&mut Route>, live: &Live, (table, events): (&Table, &Events), signal: &Signal) {
    if let Some(route) = route {
        route.own();
        tokio::spawn(addresses::follow(live.clone(), table.clone(), events.clone(), signal.clone()));
    }
}

/// Answers DNS at the gateways of containers, where that is wanted.
async fn answer_containers(
    dns: Option<&dns::Server>,
    loaded: &Loaded,
    (binder, table): (&Binder, &Table),
    signal: &Signal,
) {
    let port = loaded.dns.as_ref().and_then(|dns| dns.containers);
    if let Some((server, port)) = dns.zip(port) {
        let gateways = server.containers(port, binder, table);
        containers::start(gateways, &loaded.control.docker, signal.clone()).await;
    }
}

/// Returns the table before anything is in it.
fn first_snapshot(loaded: &Loaded) -> Snapshot {
    let zone = loaded.dns.as_ref().map(|dns| Names::new(&dns.zone));
    Snapshot::empty(zone.unwrap_or_default())
}

/// Has the configuration looked at when its file changes.
fn follow_file(watch: Option<Watch>, configuration: &configuration::Handle) {
    if let Some(watch) = watch {
        tokio::spawn(watch.run(configuration.clone()));
    }
}

fn make_state_directory(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("failed to create the state directory {}", path.display()))
}

fn definitions(loaded: &Loaded) -> Definitions {
    Definitions {
        services: loaded.services.clone(),
        routes: loaded.routes.clone().into(),
        listeners: loaded.listeners.clone().into(),
    }
}

/// Shows the metrics of certificates that Weir obtains.
fn show_certificates(metrics: &Metrics, certificates: &certificates::Handle) -> anyhow::Result<()> {
    let obtained = Box::new(CertificateGauges::new(certificates.clone()));
    metrics.registry().register(obtained).context("failed to register the metrics of certificates")
}

/// Reads the certificates that listeners show.
fn keyring(loaded: &Loaded, metrics: &Metrics, binder: &Binder) -> anyhow::Result<(Tls, Keyring)> {
    let handshakes = Handshakes::new().context("failed to make the metrics of handshakes")?;
    handshakes.register(metrics.registry()).context("failed to register the metrics of handshakes")?;
    let tls = Tls::new(handshakes);
    let link = if let Binder::Kept(link) = binder { Some(link) } else { None };
    let book = Book::open(link);
    if let Some(link) = link {
        tokio::spawn(book.clone().run(link.clone()));
    }
    let keyring = Keyring::new(tls.clone(), book).context("failed to make the metrics of certificates")?;
    keyring.register(metrics.registry()).context("failed to register the metrics of certificates")?;
    let refused = |faults: Vec<(KeyPath, String, String)>| {
        let faults: Vec<_> = faults.iter().map(|(key, message, _)| format!("{key}: {message}")).collect();
        anyhow::anyhow!("{}", faults.join("; "))
    };
    keyring.add(keyring.prepare(&loaded.listeners).map_err(refused)?);
    if let Some(tls) = loaded.dns.as_ref().and_then(|dns| dns.tls.as_ref()) {
        keyring.add(keyring.prepare_names(&tls.spec).map_err(refused)?);
    }
    Ok((tls, keyring))
}

/// Reads files of certificates again when they may have changed; ends with the runtime.
async fn watch_keyring(keyring: Keyring, table: Table) {
    let refresh = || {
        let snapshot = table.load();
        keyring.refresh(|wanted| snapshot.services.iter().any(|service| service.spec.tls.as_deref() == Some(wanted)));
    };
    let mut watch = Watch::over(keyring.files());
    loop {
        tokio::select! {
            () = watch.changed() => watch.take_up(),
            () = keyring.moved() => watch.move_to(keyring.files()),
            () = keyring.asked() => {
                refresh();
                watch.move_to(keyring.files());
                continue;
            }
            // What no hint told of, and what expired meanwhile.
            () = tokio::time::sleep(KEYRING_LOOK) => {}
        }
        refresh();
    }
}

/// Starts what upgrades are asked of; without a keeper it refuses.
fn upgrader(binder: &Binder, origin: &Origin, loaded: &Loaded) -> Upgrader {
    let Binder::Kept(link) = binder else { return Upgrader::default() };
    let workloads_stop = loaded.control.on_exit == OnExit::Stop;
    let (upgrader, requests) = Upgrader::new(std::os::unix::process::parent_id(), !workloads_stop);
    let upgrades = Upgrades { link: link.clone(), file: origin.reader.path().map(Path::to_owned), workloads_stop };
    tokio::spawn(upgrades.run(requests));
    upgrader
}

/// Returns the number of workers that a configuration asks for: else one for each CPU that the process may use.
pub(super) fn worker_count(loaded: &Loaded) -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    loaded.proxy.workers.unwrap_or(available).max(1)
}

fn state(
    loaded: &Loaded,
    following: &Following,
    control: &Control,
    (metrics, configuration): (&Metrics, &configuration::Handle),
    signal: &Signal,
) -> anyhow::Result<State> {
    let table = following.table();
    let gauges = Gauges::new(table.clone(), control.events.clone());
    metrics.registry().register(Box::new(gauges)).context("failed to register the table's metrics")?;
    let reloads = ConfigurationGauges::new(configuration.clone());
    metrics.registry().register(Box::new(reloads)).context("failed to register the metrics of the configuration")?;
    let store = Box::new(control.store.clone());
    metrics.registry().register(store).context("failed to register the store's metrics")?;
    let autoscaler = autoscaler(table, control, metrics)?;
    let rates = Rates::default();
    tokio::spawn(rates.clone().run(table.clone(), signal.clone()));
    Ok(State {
        table: table.clone(),
        registry: control.registry.clone(),
        deployments: control.deployments.clone(),
        scheduler: control.scheduler.clone(),
        autoscaler,
        history: control.health.clone(),
        events: control.events.clone(),
        metrics: metrics.clone(),
        rates,
        node: loaded.control.node_id(),
        configuration: configuration.clone(),
        store: Some(control.store.clone()),
        obtained: None,
        names: NameServer::default(),
        feed: sources::outgoing(loaded, following, control, signal),
        sources: following.sources(),
        upgrader: Upgrader::default(),
        certificates: Report::default(),
        signal: signal.clone(),
    })
}

/// Starts the autoscaler and shows its metrics.
fn autoscaler(table: &Table, control: &Control, metrics: &Metrics) -> anyhow::Result<autoscale::Handle> {
    let autoscaler = autoscale::spawn(autoscale::Parts {
        table: table.clone(),
        metrics: metrics.clone(),
        scheduler: control.scheduler.clone(),
        registry: control.registry.clone(),
        events: control.events.clone(),
    });
    let gauges = ScaleGauges::new(autoscaler.clone());
    metrics.registry().register(Box::new(gauges)).context("failed to register the autoscaler's metrics")?;
    Ok(autoscaler)
}

fn serve_names(
    (mut sockets, keyring): (dns::Sockets, &Keyring),
    options: &dns::Options,
    table: &Table,
    metrics: &Metrics,
    answering: &NameServer,
    signal: &Signal,
) -> anyhow::Result<dns::Server> {
    if let Some(secure) = keyring.names_server() {
        sockets.secure(secure);
    }
    let server = dns::serve(sockets, options, table, signal).context("failed to start the DNS server")?;
    answering.runs(Box::new(Resolver { dns: server.live(), table: table.clone() }));
    let counters = Box::new(server.counters().clone());
    metrics.registry().register(counters).context("failed to register the metrics of DNS")?;
    let gauges = Box::new(server.gauges());
    metrics.registry().register(gauges).context("failed to register the metrics of forwarding")?;
    tracing::info!(addresses = ?server.addresses(), zone = options.zone, "answering DNS");
    let [tls, https] = server.tls_addresses();
    if options.tls.is_some() {
        tracing::info!(?tls, ?https, "answering DNS over TLS");
    }
    Ok(server)
}

fn access_log(options: &LogOptions, metrics: &Metrics) -> anyhow::Result<Option<AccessLog>> {
    metrics.build_info().context("failed to register the version")?;
    let help = "Access lines that were dropped because the writer was behind.";
    let dropped = metrics.counter("weir_access_log_dropped_total", help).context("failed to register a counter")?;
    AccessLog::open(options, dropped).context("failed to start the access log")
}
