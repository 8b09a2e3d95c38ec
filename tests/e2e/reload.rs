//! A configuration that changes while Weir runs, under load: taken up as a whole or not at all, and nothing is lost.

use crate::support;
use crate::support::http::Raw;
use crate::support::process::{Finished, Weir, free_address};
use crate::web::{FULL, SETTLED, SHORT, Scale, World, beside, loaded, service, services};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What is changed is in use, or refused, within this.
const TAKEN: Duration = Duration::from_secs(20);

/// The file of a running Weir.
struct File {
    path: PathBuf,
    /// What it started with.
    base: String,
}

impl File {
    fn of(weir: &Weir) -> Self {
        let path = weir.folder.0.join("weir.toml");
        Self { base: fs::read_to_string(&path).unwrap(), path }
    }

    /// Replaces it as editors and deployments do: written beside it, renamed onto it.
    fn replace(&self, text: &str) {
        let beside = self.path.with_extension("new");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, &self.path).unwrap();
    }
}

async fn configuration(weir: &Weir) -> Value {
    let (status, found) = weir.api("GET", "/v1/configuration", None).await;
    assert_eq!(status, 200);
    found
}

async fn generation(weir: &Weir) -> u64 {
    weir.api("GET", "/v1/table", None).await.1["generation"].as_u64().unwrap()
}

fn count(configuration: &Value, outcome: &str) -> u64 {
    configuration["reloads"][outcome].as_u64().unwrap()
}

/// Waits until another reload was applied than the `before` ones, and nothing is wrong.
async fn applied(weir: &Weir, before: u64) -> Value {
    support::eventually("the configuration is in use", TAKEN, || async {
        let found = configuration(weir).await;
        (count(&found, "applied") > before && found["failure"].is_null()).then_some(found)
    })
    .await
}

/// Waits until the file is refused; returns the first problem.
async fn refused(weir: &Weir, what: &str) -> Value {
    support::eventually(what, TAKEN, || async {
        let found = configuration(weir).await;
        found["failure"]["problems"].as_array().map(|problems| problems[0].clone())
    })
    .await
}

async fn status_of(address: SocketAddr, path: &str) -> u16 {
    support::http::get(address, path).await.status
}

fn pids(instances: &[Value]) -> BTreeSet<u64> {
    instances.iter().map(|instance| instance["pid"].as_u64().unwrap()).collect()
}

fn succeeded(finished: Finished) -> String {
    assert_eq!(finished.code, 0, "{finished:?}");
    finished.out
}

/// 10 changes of routes or limits and 10 of another service.
async fn reloads_fail_no_request_and_restart_nothing(scale: Scale) {
    let _loaded = loaded().await;
    let world = World::start("reload", scale).await;
    let file = File::of(&world.weir);
    let before = pids(&world.weir.ready_instances("web").await);
    for event in 0..scale.events {
        let limits = format!("[service.limits]\nqueue = {}\n\n", 200 + event);
        let route = format!("[[route]]\nname = \"extra-{event}\"\npath = \"/extra-{event}\"\nservice = \"web\"\n\n");
        let own = match event % 2 {
            // The last section of the file is that of `web`.
            0 => format!("{}{limits}", file.base),
            _ => format!("{}{route}", file.base),
        };
        let done = count(&configuration(&world.weir).await, "applied");
        file.replace(&own);
        applied(&world.weir, done).await;
        world.passes(scale.between() / 2).await;
        let other = service("other", 1 + event % 2, "/dev/null").replace("dns_ttl = \"1s\"", "dns_ttl = \"0s\"");
        file.replace(&format!("{own}{other}"));
        applied(&world.weir, done + 1).await;
        world.weir.settled("other", 1 + event % 2, SETTLED).await;
        world.passes(scale.between() / 2).await;
    }
    world.fill(scale).await;
    let after = pids(&world.weir.ready_instances("web").await);
    assert_eq!(before, after, "no reload restarts a replica of web");
    let reloads = count(&configuration(&world.weir).await, "applied");
    assert_eq!(reloads, 2 * scale.events as u64, "{}", world.weir.log());
    world.stop(&format!("{reloads} reloads")).await.none_failed();
}

/// Many changes in a short time; between good texts bad ones, and texts that say the same.
async fn a_storm_keeps_the_last_good_one(changes: u32, over: Duration) {
    let _loaded = loaded().await;
    let world = World::start("storm", SHORT).await;
    let weir = &world.weir;
    let file = File::of(weir);
    let start = generation(weir).await;
    let pause = over / changes;
    // What only says the same, in other words: no generation.
    for change in 0..changes / 4 {
        file.replace(&format!("{}# change {change}\n", file.base));
        tokio::time::sleep(pause).await;
    }
    let same = applied(weir, 0).await;
    assert_eq!(generation(weir).await, start, "no generation without a real change");
    // Good ones, bad ones, half ones, in place and by rename.
    let text = |queue: u32| format!("{}[service.limits]\nqueue = {queue}\n", file.base);
    for change in 0..changes / 2 {
        match change % 5 {
            0 | 1 => file.replace(&text(change + 1)),
            2 => fs::write(&file.path, text(change + 1)).unwrap(),
            3 => file.replace(&format!("{}[service.limits]\nqueue = \"many\"\n", file.base)),
            _ => file.replace(&text(change + 1)[..file.base.len() / 2]),
        }
        assert!(generation(weir).await >= start);
        tokio::time::sleep(pause).await;
    }
    // A volume that swaps a link: ConfigMaps are updated like this.
    let folder = &weir.folder.0;
    for (name, queue) in [("..1", 7), ("..2", 9)] {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("weir.toml"), text(queue)).unwrap();
    }
    let swap = |to: &str, name: &str| {
        std::os::unix::fs::symlink(to, folder.join("link")).unwrap();
        fs::rename(folder.join("link"), folder.join(name)).unwrap();
    };
    swap("..1", "..data");
    swap("..data/weir.toml", "weir.toml");
    for change in 0..changes / 4 {
        swap(if change % 2 == 0 { "..2" } else { "..1" }, "..data");
        tokio::time::sleep(pause).await;
    }
    swap("..2", "..data");
    let last = support::eventually("the last good one is in use", TAKEN, || async {
        let queue = weir.cli(&["diff"]).await;
        let found = configuration(weir).await;
        (queue.code == 0 && found["failure"].is_null()).then_some(found)
    })
    .await;
    let (before, applied) = (count(&same, "applied"), count(&last, "applied"));
    let generations = generation(weir).await - start;
    println!(
        "storm of {changes} changes in {over:?}: {applied} taken up, {} refused, {generations} generations",
        count(&last, "refused")
    );
    assert!(applied > before && generations >= 1, "{last}");
    assert!(generations <= applied - before, "a generation for each real change at most: {last}");
    assert!(succeeded(weir.cli(&["status"]).await).contains("noticed by inotify"));
    world.stop("storm").await.none_failed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_fail_no_request_and_restart_nothing() {
    reloads_fail_no_request_and_restart_nothing(Scale { events: 2, ..SHORT }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 20 reloads within 200,000 requests; run by tests/run --long"]
async fn twenty_reloads_fail_no_request_and_restart_nothing() {
    reloads_fail_no_request_and_restart_nothing(Scale { requests: 200_000, ..FULL }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_changes_keeps_the_last_good_one() {
    a_storm_keeps_the_last_good_one(200, Duration::from_secs(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 1,000 changes in 10 s; run by tests/run --long"]
async fn a_storm_of_a_thousand_changes_in_ten_seconds_keeps_the_last_good_one() {
    a_storm_keeps_the_last_good_one(1000, Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_is_refused_once_with_its_place_and_the_last_good_one_is_served() {
    let _beside = beside().await;
    let weir = Weir::start("bad", &services(1, "/dev/null")).await;
    weir.settled("web", 1, SETTLED).await;
    let file = File::of(&weir);
    let (start, line) = (generation(&weir).await, file.base.lines().count() + 2);
    let bad = format!("{}[service.limits]\nqueue = \"many\"\n", file.base);
    file.replace(&bad);
    let problem = refused(&weir, "a wrong value").await;
    assert_eq!((problem["line"].as_u64(), &problem["key"]), (Some(line as u64), &"service.web.limits.queue".into()));
    // Told once, whatever happens around it.
    for _ in 0..3 {
        file.replace(&bad);
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let found = configuration(&weir).await;
    assert_eq!((count(&found, "refused"), count(&found, "applied")), (1, 0));
    let status = succeeded(weir.cli(&["status"]).await);
    assert!(status.contains(&format!("weir.toml:{line}: service.web.limits.queue:")), "{status}");
    // Who asks is told each time, with all of it.
    let asked = weir.cli(&["reload"]).await;
    assert_eq!(asked.code, 2, "{asked:?}");
    assert!(asked.err.contains("service.web.limits.queue"), "{asked:?}");

    fs::remove_file(&file.path).unwrap();
    let gone = support::eventually("a deleted file", TAKEN, || async {
        let found = configuration(&weir).await["failure"]["problems"][0]["message"].as_str().map(str::to_owned);
        found.filter(|message| message.contains("cannot be read"))
    })
    .await;
    assert!(gone.contains("No such file"), "{gone}");
    for (what, make) in [
        ("is a directory", Box::new(|| fs::create_dir(&file.path).unwrap()) as Box<dyn Fn()>),
        ("is empty", Box::new(|| fs::remove_dir(&file.path).and_then(|()| fs::write(&file.path, " \n")).unwrap())),
        ("is not UTF-8", Box::new(|| fs::write(&file.path, b"\xff\xfe").unwrap())),
        ("cannot change while Weir runs", Box::new(|| file.replace(&file.base.replace("/state", "/elsewhere")))),
    ] {
        make();
        support::eventually(what, TAKEN, || async {
            let found = configuration(&weir).await;
            let problems = found["failure"]["problems"].as_array().cloned().unwrap_or_default();
            problems.iter().any(|p| p["message"].as_str().unwrap().contains(what)).then_some(())
        })
        .await;
        assert_eq!(status_of(weir.http, "/").await, 200, "after a file that {what}");
    }
    let status = succeeded(weir.cli(&["status"]).await);
    assert!(status.contains("store.path") && status.contains("restart to apply"), "{status}");
    assert_eq!(generation(&weir).await, start, "none of this was published");
    // And it recovers, first with what runs, then with something new.
    file.replace(&file.base);
    support::eventually("the file is good again", TAKEN, || async {
        configuration(&weir).await["failure"].is_null().then_some(())
    })
    .await;
    assert_eq!(generation(&weir).await, start);
    file.replace(&format!("{}[service.limits]\nqueue = 5\n", file.base));
    applied(&weir, 0).await;
    let events = succeeded(weir.cli(&["events"]).await);
    assert_eq!(events.matches("configuration_applied").count(), 1, "{events}");
    assert_eq!(events.matches("configuration_refused").count(), 7, "{events}");
    let metrics = String::from_utf8(support::http::get(weir.admin, "/metrics").await.body).unwrap();
    for line in ["weir_config_reloads_total{outcome=\"applied\"} 1", "weir_config_reloads_total{outcome=\"refused\"} 7"]
    {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_and_workers_change_with_the_file_as_a_whole_or_not_at_all() {
    let _beside = beside().await;
    let weir = Weir::start("listeners", &services(1, "/dev/null")).await;
    weir.settled("web", 1, SETTLED).await;
    let file = File::of(&weir);
    let second = free_address();
    let with = |address: SocketAddr| {
        let workers = file.base.replace("[node]\n", "[node]\nworkers = 3\n");
        format!("{workers}\n[[listener]]\nname = \"second\"\naddress = \"{address}\"\n")
    };
    // Somebody else has the address: nothing changes, not even what could.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let route = "\n[[route]]\nname = \"more\"\nhost = \"more.example\"\nservice = \"web\"\n";
    file.replace(&format!("{}{route}", with(taken.local_addr().unwrap())));
    let problem = refused(&weir, "a taken address").await;
    assert_eq!(problem["key"], "listener.second.address", "{problem}");
    let (_, routes) = weir.api("GET", "/v1/routes", None).await;
    assert!(!routes.to_string().contains("more.example"), "{routes}");
    file.replace(&with(second));
    applied(&weir, 0).await;
    assert_eq!((status_of(second, "/").await, status_of(weir.http, "/").await), (200, 200));
    let (_, table) = weir.api("GET", "/v1/table", None).await;
    let workers = table["acknowledgers"].as_array().unwrap().iter();
    assert_eq!(workers.filter(|a| a["name"].as_str().unwrap().starts_with("worker-")).count(), 3, "{table}");
    file.replace(&file.base);
    applied(&weir, 1).await;
    assert!(Raw::connect(second).await.is_err(), "nobody listens there any more");
    assert_eq!(status_of(weir.http, "/").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_service_finishes_its_requests() {
    let _loaded = loaded().await;
    let old = format!(
        "[[route]]\nname = \"old\"\npath = \"/delay\"\nservice = \"old\"\n\n{}",
        service("old", 2, "/dev/null")
    );
    let weir = Weir::start("removed", &format!("{old}{}", services(1, "/dev/null"))).await;
    weir.settled("old", 2, SETTLED).await;
    // A number by hand does not keep a service that is removed.
    succeeded(weir.cli(&["scale", "old", "3"]).await);
    weir.settled("old", 3, SETTLED).await;
    let file = File::of(&weir);
    let in_flight: Vec<_> = (0..4).map(|_| tokio::spawn(status_of_slow(weir.http))).collect();
    support::eventually("requests are in flight", TAKEN, || async {
        let ready = weir.ready_instances("old").await;
        (ready.iter().filter_map(|i| i["in_flight"].as_u64()).sum::<u64>() == 4).then_some(())
    })
    .await;
    file.replace(&file.base.replace(&old, ""));
    applied(&weir, 0).await;
    for request in in_flight {
        assert_eq!(request.await.unwrap(), 200, "{}", weir.log());
    }
    support::eventually("the service is gone", SETTLED, || async {
        let (status, _) = weir.api("GET", "/v1/services/old", None).await;
        (status == 404).then_some(())
    })
    .await;
    assert!(weir.instances().await.iter().all(|i| i["service"] != "old"));
    // It comes back as new.
    file.replace(&file.base);
    applied(&weir, 1).await;
    weir.settled("old", 2, SETTLED).await;
    assert_eq!(status_of(weir.http, "/delay/1").await, 200);
}

async fn status_of_slow(address: SocketAddr) -> u16 {
    status_of(address, "/delay/3000").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reload_and_diff_do_what_a_user_expects() {
    let _beside = beside().await;
    let weir = Weir::start("diff", &services(1, "/dev/null")).await;
    let file = File::of(&weir);
    assert_eq!(succeeded(weir.cli(&["diff"]).await), "nothing would change\n");
    let other = weir.folder.0.join("other.toml");
    let text = format!("{}[service.limits]\nqueue = 7\n[service.run.env]\nAPI_TOKEN = \"hush\"\n", file.base);
    fs::write(&other, text.replace("[dns]", "[log]\nformat = \"json\"\n[dns]")).unwrap();
    let path = other.display().to_string();
    let diff = weir.cli(&["diff", "-f", &path]).await;
    assert_eq!(diff.code, 10, "{diff:?}");
    for line in [
        "~ log.format: \"text\" → \"json\"  [needs a restart]\n",
        "~ service.web.limits.queue: 100 → 7  [runs: file, revision 1]\n",
        "+ service.web.run.env = { API_TOKEN = *** }  [runs: file, revision 1]\n",
    ] {
        assert!(diff.out.contains(line), "{line}{}", diff.out);
    }
    let json = weir.cli(&["diff", "-f", &path, "-o", "json"]).await;
    let found: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((json.code, found["changes"].as_array().unwrap().len()), (10, 3));
    fs::write(&other, "[dns]\nzone = 5\n").unwrap();
    let wrong = weir.cli(&["diff", "-f", &path]).await;
    assert!(wrong.code == 2 && wrong.err.contains("other.toml:2: dns.zone:"), "{wrong:?}");
    assert_eq!(weir.cli(&["diff", "-f", "/nonexistent"]).await.code, 2);
    // The same text in a file that nobody notices by itself is not needed: SIGHUP and `reload` look now.
    weir.signal("HUP").await;
    support::eventually("SIGHUP is counted", TAKEN, || async {
        (count(&configuration(&weir).await, "unchanged") == 1).then_some(())
    })
    .await;
    assert_eq!(succeeded(weir.cli(&["reload"]).await), "nothing changed\n");
    // Owned values: what was masked is in use.
    fs::write(&file.path, format!("{}[service.limits]\nqueue = 8\n", file.base)).unwrap();
    succeeded(weir.cli(&["reload"]).await);
    let found = applied(&weir, 0).await;
    assert_eq!(count(&found, "applied"), 1, "whoever came first: the watch or the command");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_undoes_a_deploy_only_where_it_was_edited() {
    let _beside = beside().await;
    let weir = Weir::start("owner", &services(1, "/dev/null")).await;
    weir.settled("web", 1, SETTLED).await;
    let file = File::of(&weir);
    succeeded(weir.cli(&["deploy", "web", "--env", "GREETING=hello", "--wait"]).await);
    // Another section changes: the deploy stays.
    file.replace(&format!("{}{}", file.base, service("other", 1, "/dev/null")));
    applied(&weir, 0).await;
    assert_eq!(succeeded(weir.cli(&["diff"]).await), "nothing would change\n");
    // Its own section changes: it would go.
    let edited = weir.folder.0.join("edited.toml");
    fs::write(&edited, format!("{}[service.limits]\nqueue = 9\n", file.base)).unwrap();
    let diff = weir.cli(&["diff", "-f", &edited.display().to_string()]).await;
    for line in [
        "- service.web.run.env = { GREETING = \"hello\" }  [runs: deploy, revision 2]\n",
        "~ service.web.limits.queue: 100 → 9  [runs: deploy, revision 2]\n",
        "- service.other = {",
    ] {
        assert!(diff.code == 10 && diff.out.contains(line), "{line}{diff:?}");
    }
}
