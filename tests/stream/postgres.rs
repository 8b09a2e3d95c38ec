//! A real PostgreSQL behind Weir: psql through its own way into TLS.

use crate::WAIT;
use crate::authority::Authority;
use crate::support::process::{Folder, Weir, free_address};
use crate::support::{eventually, within};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};

/// A running server, with TLS.
struct Postgres {
    address: SocketAddr,
    _folder: Folder,
    _child: Child,
}

/// The folder of the server's programs.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("apt install postgresql; tests/run does");
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.unwrap().path().join("bin")).collect();
    found.sort();
    found.pop().expect("apt install postgresql")
}

/// Runs a program of the server's as the user `postgres`: it refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]).arg(program);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

impl Postgres {
    async fn start(authority: &Authority, host: &str, name: &str) -> Self {
        let folder = Folder::new(&format!("postgres-{name}"));
        let (data, bin) = (folder.0.join("data"), programs());
        // Folders of tests are only for who runs them.
        for part in folder.0.ancestors().take_while(|part| part.starts_with(std::env::temp_dir())) {
            let _ = std::process::Command::new("chmod").arg("o+x").arg(part).status();
        }
        std::fs::create_dir(&data).unwrap();
        let chown = std::process::Command::new("chown").arg("postgres:postgres").arg(&data).status().unwrap();
        assert!(chown.success());
        let mut init = as_postgres(&bin.join("initdb"));
        init.args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"]).arg(&data);
        let made = within("initdb", WAIT, init.output()).await.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let pair = authority.issue(&[host]);
        for (file, text) in [("server.crt", &pair.certificate), ("server.key", &pair.key)] {
            std::fs::write(data.join(file), text).unwrap();
            let path = data.join(file);
            assert!(
                std::process::Command::new("chown").arg("postgres:postgres").arg(&path).status().unwrap().success()
            );
            assert!(std::process::Command::new("chmod").arg("600").arg(&path).status().unwrap().success());
        }
        let address = free_address();
        let log = std::fs::File::create(folder.0.join("log")).unwrap();
        let mut command = as_postgres(&bin.join("postgres"));
        command.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-k", ""]);
        command.args(["-c", "ssl=on", "-c", "fsync=off", "-c", &format!("cluster_name={name}")]);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut server = Self { address, _folder: folder, _child: child };
        let ready = async || psql(&format!("host=127.0.0.1 port={} sslmode=disable", address.port())).await.ok();
        assert_eq!(eventually("PostgreSQL is ready", WAIT, ready).await, format!("{name}|f"));
        assert!(server._child.try_wait().unwrap().is_none());
        server
    }
}

/// Asks which server it is, and whether the server sees TLS.
async fn psql(connection: &str) -> Result<String, String> {
    let question = "select current_setting('cluster_name'), (select ssl from pg_stat_ssl where pid = pg_backend_pid())";
    let mut command = Command::new("psql");
    let connection = format!("{connection} user=postgres dbname=postgres connect_timeout=20");
    command.args(["-XAtq", "-d", &connection, "-c", question]).stdin(Stdio::null()).kill_on_drop(true);
    let output = within("psql", WAIT, command.output()).await.unwrap();
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[tokio::test]
async fn psql_goes_through_its_way_into_tls() {
    let authority = Authority::new();
    let (one, two) =
        tokio::join!(Postgres::start(&authority, "one.test", "one"), Postgres::start(&authority, "two.test", "two"));
    let folder = Folder::new("postgres-front");
    let ca = folder.write("ca.pem", &authority.pem());
    let entry = authority.issue(&["front.test"]).write(&folder, "front");
    let (passes, ends) = (free_address(), free_address());
    let toml = format!(
        "[[listener]]\nname = \"passes\"\naddress = \"{passes}\"\nprotocol = \"tcp\"\nstarttls = \"postgres\"\nservice = \"one\"\n\
         [[listener.sni]]\nnames = [\"one.test\"]\nservice = \"one\"\n\
         [[listener.sni]]\nnames = [\"two.test\"]\nservice = \"two\"\n\
         [[listener]]\nname = \"ends\"\naddress = \"{ends}\"\nprotocol = \"tcp\"\nstarttls = \"postgres\"\nservice = \"one\"\n\
         [listener.tls]\ncertificates = [{entry}]\n\
         [[listener.sni]]\nnames = [\"front.test\"]\nservice = \"secure\"\n\
         [[service]]\nname = \"one\"\n[[service.endpoint]]\naddress = \"{}\"\n\
         [[service]]\nname = \"two\"\n[[service.endpoint]]\naddress = \"{}\"\n\
         [[service]]\nname = \"secure\"\n[service.tls]\nca = {ca:?}\nserver_name = \"two.test\"\n[[service.endpoint]]\naddress = \"{}\"\n",
        one.address, two.address, two.address
    );
    let weir = Weir::start("postgres", &toml).await;
    for name in ["one", "two", "secure"] {
        weir.settled(name, 1, WAIT).await;
    }
    let to = |address: SocketAddr, host: &str, mode: &str| {
        format!("host={host} hostaddr=127.0.0.1 port={} sslmode={mode} sslrootcert={}", address.port(), ca.display())
    };
    // Passed through: each client checks the certificate of the server that it is led to.
    for host in ["one", "two"] {
        let said = psql(&to(passes, &format!("{host}.test"), "verify-full")).await;
        assert_eq!(said, Ok(format!("{host}|t")), "{}", weir.log());
    }
    // In clear text, and to a host that has no rule: the listener's own service.
    assert_eq!(psql(&to(passes, "one.test", "disable")).await, Ok("one|f".to_owned()));
    assert_eq!(psql(&to(passes, "other.test", "require")).await, Ok("one|t".to_owned()));
    // Ended here, and towards an endpoint with TLS begun anew in PostgreSQL's way.
    assert_eq!(psql(&to(ends, "front.test", "verify-full")).await, Ok("two|t".to_owned()), "{}", weir.log());
    assert_eq!(psql(&to(ends, "other.test", "require")).await, Ok("one|f".to_owned()));
    assert_eq!(psql(&to(ends, "other.test", "disable")).await, Ok("one|f".to_owned()));
}
