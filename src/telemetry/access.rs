//! The access log: a bounded channel to one writer thread; a full channel drops lines and counts them.

use crate::clock;
use crate::telemetry::{Format, LogOptions};
use prometheus::IntCounter;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// Text that is written at once, about, in octets.
const MAX_TEXT: usize = 64 * 1024;

/// What one finished request was; holds no header values but host and request id.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    /// The client's address.
    pub client: IpAddr,
    /// The id that was sent upstream.
    pub request_id: String,
    /// The method; `TCP` for a stream.
    pub method: String,
    /// The effective host; of a stream its listener's name.
    pub host: String,
    /// The path without its query: queries carry secrets.
    pub path: String,
    /// The service, or empty when no route matched.
    pub service: String,
    /// The endpoint that answered.
    pub endpoint: Option<std::net::SocketAddr>,
    /// The status; 0 when the client went away first.
    pub status: u16,
    /// Why Weir answered itself, or what failed.
    pub reason: &'static str,
    /// Octets sent to the client.
    pub sent_bytes: u64,
    /// Octets received from the client: the request's body, or a stream.
    pub received_bytes: u64,
    /// From the request's head to the response's end.
    pub duration_us: u64,
    /// Until the first octet of the upstream's response; of a stream until it was connected.
    pub first_byte_us: u64,
    /// Attempts.
    pub attempts: u8,
}

/// The sending end; cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessLog {
    sender: SyncSender<AccessRecord>,
    dropped: IntCounter,
}

impl AccessLog {
    /// Starts the writer thread when the access log is on.
    ///
    /// `dropped` counts the lines that the writer was too slow for.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn open(options: &LogOptions, dropped: IntCounter) -> io::Result<Option<Self>> {
        if !options.access {
            return Ok(None);
        }
        let (sender, receiver) = sync_channel(options.access_queue.max(1));
        let format = options.access_format;
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&receiver, format, io::stdout()))?;
        Ok(Some(Self { sender, dropped }))
    }

    /// Hands a record to the writer; drops and counts it when the writer is behind. Never waits.
    pub fn record(&self, record: AccessRecord) {
        if self.sender.try_send(record).is_err() {
            self.dropped.inc();
        }
    }
}

fn write_all(records: &Receiver<AccessRecord>, format: Format, mut output: impl Write) {
    let mut text = Vec::with_capacity(2 * MAX_TEXT);
    while let Ok(record) = records.recv() {
        let _ = write_line(&mut text, &record, format);
        for record in records.try_iter().take(1024) {
            let _ = write_line(&mut text, &record, format);
            if text.len() > MAX_TEXT {
                break;
            }
        }
        // Whole lines at once: others write to standard output too. A reader that went away must not end the product: lines
        // are lost, traffic goes on.
        let _ = output.write_all(&text).and_then(|()| output.flush());
        text.clear();
    }
}

fn write_line(output: &mut impl Write, record: &AccessRecord, format: Format) -> io::Result<()> {
    let endpoint = record.endpoint.map(|e| e.to_string()).unwrap_or_default();
    let at = clock::unix_ms();
    match format {
        Format::Json => {
            let line = serde_json::json!({
                "ts_ms": at, "client": record.client, "request_id": record.request_id, "method": record.method,
                "host": record.host, "path": record.path, "service": record.service, "endpoint": endpoint,
                "status": record.status, "reason": record.reason, "sent_bytes": record.sent_bytes,
                "received_bytes": record.received_bytes, "duration_us": record.duration_us, "first_byte_us": record.first_byte_us, "attempts": record.attempts,
            });
            writeln!(output, "{line}")
        }
        Format::Text => writeln!(
            output,
            "{at} {} {} {}{} {} {} {} {}us {}",
            record.client,
            record.method.escape_default(),
            record.host.escape_default(),
            record.path.escape_default(),
            record.status,
            record.service,
            endpoint,
            record.duration_us,
            record.reason,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{AccessLog, AccessRecord, write_line};
    use crate::telemetry::Format;
    use std::sync::mpsc::sync_channel;

    fn record() -> AccessRecord {
        AccessRecord {
            client: [127, 0, 0, 1].into(),
            request_id: "id".into(),
            method: "GET".into(),
            host: "h\"\n".into(),
            path: "/p".into(),
            service: "web".into(),
            endpoint: None,
            status: 200,
            reason: "",
            sent_bytes: 1,
            received_bytes: 0,
            duration_us: 2,
            first_byte_us: 1,
            attempts: 1,
        }
    }

    #[test]
    fn a_line_stays_one_line_whatever_the_client_sent() {
        for format in [Format::Json, Format::Text] {
            let mut out = Vec::new();
            write_line(&mut out, &record(), format).unwrap();
            assert_eq!(out.iter().filter(|&&b| b == b'\n').count(), 1);
        }
    }

    #[test]
    fn a_full_channel_drops_and_counts() {
        let (sender, _receiver) = sync_channel(1);
        let dropped = prometheus::IntCounter::new("dropped", "help").unwrap();
        let log = AccessLog { sender, dropped: dropped.clone() };
        log.record(record());
        log.record(record());
        assert_eq!(dropped.get(), 1);
    }
}
