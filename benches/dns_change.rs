#![allow(
    dead_code,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a program for people"
)]
//! How soon DNS answers a change of the table, and whether it answers right while the table changes all the time.
//!
//! `delay`: a client asks once a millisecond while endpoints turn ill and well at random moments; what is measured is from
//! just before the publish to the first answer that knows it, in a table of 10,000 services with 10 endpoints.
//! `rate`: 50,000 questions a second, sent by the clock whatever comes back, during 1,000 changes a second; an answer is wrong
//! unless it is that of a table between the last one published when the question was sent and the newest begun when the answer
//! came. Promise: 5 ms at most; nothing wrong, nothing lost.

#[path = "support/mod.rs"]
mod support;

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::{instance, quantile, service};
use weir::clock;
use weir::dns::{Options, Server, bind, serve};
use weir::dnswire::{parse_name, rtype};
use weir::lifecycle::{Trigger, drain};
use weir::model::{Policy, ServiceSpec, Verdict};
use weir::net::Binder;
use weir::rng::Rng;
use weir::table::names::Names;
use weir::table::{Change, Changes, Publisher, Snapshot, build, channel};

const HELP: &str = "usage: cargo bench --bench dns_change -- [options]

  --transitions N    changes whose delay is measured (default 1000, 25 ms apart in the mean)
  --seconds S        how long questions are sent at the rate (default 10)
  --rate N           questions a second (default 50000)
  --services N       services of the table besides the one that changes (default 10000)
";

/// A question follows the last after this.
const POLL: Duration = Duration::from_millis(1);
/// The longest delay that is promised.
const MOST: Duration = Duration::from_millis(5);
/// Changes follow each other after this while questions are sent at the rate.
const CHANGE: Duration = Duration::from_millis(1);
/// An answer that has not come after this is lost.
const WAIT: Duration = Duration::from_secs(1);
/// Answers that wait to be read, in octets.
const ROOM: usize = 4 << 20;
/// Endpoints of the service that changes, one of which is usable: so many steps are told apart by their answers.
const ENDPOINTS: u64 = 64;

struct Asked {
    transitions: u64,
    seconds: u64,
    rate: u64,
    services: u32,
}

/// A server and its table.
struct Fixture {
    address: SocketAddr,
    publisher: Publisher,
    spec: Arc<ServiceSpec>,
    _server: Server,
    _trigger: Trigger,
}

fn main() {
    match asked().and_then(|asked| run(&asked)) {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(error) => {
            eprintln!("dns_change: {error}");
            std::process::exit(2);
        }
    }
}

fn asked() -> Result<Asked, Box<dyn Error>> {
    let mut asked = Asked { transitions: 1000, seconds: 10, rate: 50_000, services: 10_000 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number =
            || words.next().ok_or(format!("{word} needs a number"))?.parse::<u64>().map_err(|e| e.to_string());
        match word.as_str() {
            "--transitions" => asked.transitions = number()?.max(1),
            "--seconds" => asked.seconds = number()?.max(1),
            "--rate" => asked.rate = number()?.max(1000),
            "--services" => asked.services = u32::try_from(number()?)?,
            // Cargo says so.
            "--bench" => {}
            "--help" => {
                print!("{HELP}");
                std::process::exit(0);
            }
            _ => return Err(format!("unknown option {word}\n{HELP}").into()),
        }
    }
    Ok(asked)
}

fn run(asked: &Asked) -> Result<bool, Box<dyn Error>> {
    let mut fixture = Fixture::start(asked.services)?;
    println!("dns_change: {} services x 10 endpoints, one UDP thread", asked.services);
    let prompt = delay(&mut fixture, asked.transitions)?;
    let right = rate(&mut fixture, asked)?;
    Ok(prompt && right)
}

impl Fixture {
    fn start(services: u32) -> Result<Self, Box<dyn Error>> {
        let options = Options { listen: vec![([127, 0, 0, 1], 0).into()], threads: 1, ..Options::default() };
        let (publisher, table) = channel(Snapshot::empty(Names::new(&options.zone)));
        let (trigger, signal) = drain();
        let server = serve(bind(&options, &Binder::Local, false)?, &options, &table, &signal)?;
        let spec = Arc::new(service("web", Policy::ExpectedDelay));
        let address = server.addresses()[0];
        let mut fixture = Self { address, publisher, spec, _server: server, _trigger: trigger };
        let others = (0..services).map(|s| {
            let spec = service(&format!("service-{s}"), Policy::ExpectedDelay);
            let instances = (0..10).map(|n| instance(&spec.name, s * 10 + n)).collect();
            Change::Set { spec: Arc::new(spec), instances }
        });
        fixture.change(others.collect());
        fixture.publish(0);
        Ok(fixture)
    }

    fn change(&mut self, services: Vec<Change>) {
        let next =
            build(&self.publisher.current(), Changes { services, now_ms: clock::now_ms(), ..Changes::default() });
        self.publisher.publish(next);
    }

    /// Publishes a state in which one endpoint is well, with each step the next.
    fn publish(&mut self, step: u64) {
        let instances = (0..ENDPOINTS).map(|n| {
            let mut one = instance(&self.spec.name, 0x00f0_0000 + n as u32);
            one.verdict = if n == step % ENDPOINTS { Verdict::Healthy } else { Verdict::Unhealthy };
            one
        });
        self.change(vec![Change::Set { spec: self.spec.clone(), instances: instances.collect() }]);
    }
}

/// Returns a question for the service's addresses.
fn question(id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut message = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(parse_name("web.weir.internal").unwrap());
    message.extend(rtype::A.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// Returns the endpoint that an answer names; `None`: it is not one with one whole record.
fn named(message: &[u8]) -> Option<u64> {
    let records = u16::from_be_bytes(message.get(6..8)?.try_into().ok()?);
    let whole = message[3] & 0x0F == 0 && message[2] & 0x02 == 0 && records == 1;
    message.last().filter(|_| whole).map(|octet| u64::from(*octet))
}

fn pause_until(when: Instant) {
    let left = when.saturating_duration_since(clock::now());
    if !left.is_zero() {
        thread::park_timeout(left);
    }
}

/// Asks once a millisecond until told to stop; returns when each answer came and which endpoint it named.
fn poll(address: SocketAddr, stop: &AtomicBool) -> std::io::Result<(Vec<(Instant, u64)>, Duration)> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(WAIT))?;
    let (mut answers, mut late, mut octets) = (Vec::new(), Duration::ZERO, [0; 512]);
    let mut due = clock::now();
    while !stop.load(Ordering::Relaxed) {
        due = clock::now().max(due + POLL);
        pause_until(due);
        late = late.max(clock::now() - due);
        socket.send(&question(0x1234))?;
        let length = socket.recv(&mut octets)?;
        let state = named(&octets[..length]).ok_or_else(|| std::io::Error::other("an answer is not whole"))?;
        answers.push((clock::now(), state));
    }
    Ok((answers, late))
}

fn delay(fixture: &mut Fixture, transitions: u64) -> Result<bool, Box<dyn Error>> {
    let mut rng = Rng::from_seed(7);
    let stop = Arc::new(AtomicBool::new(false));
    let poller = thread::spawn({
        let (address, stop) = (fixture.address, stop.clone());
        move || poll(address, &stop)
    });
    let mut published = Vec::new();
    for step in 1..=transitions {
        thread::park_timeout(Duration::from_micros(10_000 + rng.below(30_000) as u64));
        published.push((clock::now(), step % ENDPOINTS));
        fixture.publish(step);
    }
    thread::park_timeout(Duration::from_millis(100));
    stop.store(true, Ordering::Relaxed);
    let (answers, late) = poller.join().map_err(|_| "the client panicked")??;
    let mut delays = Vec::new();
    for (at, state) in published {
        let first = answers.partition_point(|(came, _)| *came < at);
        let seen = answers[first..].iter().find(|(_, known)| *known == state).ok_or("a change was never answered")?;
        delays.push((seen.0 - at).as_secs_f64() * 1e3);
    }
    let slowest = quantile(&delays, 1.0);
    let good = slowest <= MOST.as_secs_f64() * 1e3;
    println!(
        "  delay: {transitions} transitions, {} questions: median {:.2} ms, p99 {:.2} ms, slowest {slowest:.2} ms; the client itself \
         woke up to {:.2} ms late; wanted: at most {MOST:?}: {}",
        answers.len(),
        quantile(&delays, 0.5),
        quantile(&delays, 0.99),
        late.as_secs_f64() * 1e3,
        met(good),
    );
    Ok(good)
}

/// What those who ask and who publishes share.
struct Course {
    /// The step that is certainly published, and the one that may be.
    sure: AtomicU64,
    begun: AtomicU64,
    /// By the id of a question: the step that was published for sure when it was sent, and one; 0: not on its way.
    sent: Vec<AtomicU64>,
    stop: AtomicBool,
}

fn rate(fixture: &mut Fixture, asked: &Asked) -> Result<bool, Box<dyn Error>> {
    fixture.publish(0);
    let course = Arc::new(Course {
        sure: AtomicU64::new(0),
        begun: AtomicU64::new(0),
        sent: (0..=u16::MAX).map(|_| AtomicU64::new(0)).collect(),
        stop: AtomicBool::new(false),
    });
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(fixture.address)?;
    socket.set_read_timeout(Some(WAIT))?;
    socket2::SockRef::from(&socket).set_recv_buffer_size(ROOM)?;
    let begin = clock::now();
    let reader = thread::spawn({
        let (socket, course) = (socket.try_clone()?, course.clone());
        move || read(&socket, &course)
    });
    let writer = thread::spawn({
        let (course, rate) = (course.clone(), asked.rate);
        move || write(&socket, &course, rate)
    });
    let mut step = 0;
    while clock::now() - begin < Duration::from_secs(asked.seconds) {
        step += 1;
        course.begun.store(step, Ordering::SeqCst);
        fixture.publish(step);
        course.sure.store(step, Ordering::SeqCst);
        pause_until(begin + CHANGE * u32::try_from(step)?);
    }
    course.stop.store(true, Ordering::SeqCst);
    let took = (clock::now() - begin).as_secs_f64();
    let sent = writer.join().map_err(|_| "the sender panicked")??;
    let (right, wrong) = reader.join().map_err(|_| "the reader panicked")??;
    let (lost, per_second, changes) = (sent - right - wrong, sent as f64 / took, step as f64 / took);
    let enough = per_second >= asked.rate as f64 * 0.99 && changes >= 990.0;
    let good = wrong == 0 && lost == 0 && enough;
    println!(
        "  rate: {sent} questions at {per_second:.0}/s during {step} changes at {changes:.0}/s: {wrong} wrong, {lost} lost; wanted: none, \
         {}/s and 1000/s: {}",
        asked.rate,
        met(good),
    );
    Ok(good)
}

/// Sends questions by the clock, those of a millisecond at once; returns how many.
fn write(socket: &UdpSocket, course: &Course, rate: u64) -> std::io::Result<u64> {
    let (begin, mut sent) = (clock::now(), 0u64);
    let mut message = question(0);
    while !course.stop.load(Ordering::Relaxed) {
        let due = (clock::now() - begin).as_micros() as u64 * rate / 1_000_000;
        while sent < due {
            let id = sent as u16;
            message[..2].copy_from_slice(&id.to_be_bytes());
            course.sent[usize::from(id)].store(course.sure.load(Ordering::SeqCst) + 1, Ordering::SeqCst);
            socket.send(&message)?;
            sent += 1;
        }
        thread::park_timeout(Duration::from_millis(1));
    }
    Ok(sent)
}

/// Reads answers until none comes for long; returns how many were right and how many were not.
fn read(socket: &UdpSocket, course: &Course) -> std::io::Result<(u64, u64)> {
    let (mut right, mut wrong, mut octets) = (0, 0, [0; 512]);
    loop {
        let length = match socket.recv(&mut octets) {
            Ok(length) => length,
            Err(_) if course.stop.load(Ordering::SeqCst) => return Ok((right, wrong)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let last = course.begun.load(Ordering::SeqCst);
        let id = u16::from_be_bytes([octets[0], octets[1]]);
        let first = course.sent[usize::from(id)].swap(0, Ordering::SeqCst);
        let state = named(&octets[..length]);
        let fits = first > 0 && state.is_some_and(|state| (first - 1..=last).any(|step| step % ENDPOINTS == state));
        if fits { right += 1 } else { wrong += 1 }
    }
}

fn met(good: bool) -> &'static str {
    if good { "met" } else { "MISSED" }
}
