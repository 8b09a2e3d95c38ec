//! `weir certificates`: what Weir obtained and what it reads from files, the root of its authority, and a renewal by hand.

use crate::admin::Certificates;
use crate::cli::args::{CertificatesArgs, CertificatesCommand};
use crate::cli::global::{Format, Global};
use crate::cli::output::{self, Table};
use crate::cli::remote::{Remote, encode};
use anyhow::Result;
use http::Method;

/// Runs the command.
pub(super) async fn certificates(global: &Global, args: &CertificatesArgs) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    match &args.command {
        None | Some(CertificatesCommand::List) => list(global, &mut remote).await,
        Some(CertificatesCommand::Ca) => Ok(output::write(&remote.text("/v1/certificates-authority").await?)?),
        Some(CertificatesCommand::Renew { name }) => {
            let path = format!("/v1/certificates/{}/renew", encode(name));
            remote.change(Method::POST, &path, None::<&()>).await
        }
    }
}

async fn list(global: &Global, remote: &mut Remote) -> Result<()> {
    let found: Certificates = remote.get("/v1/certificates").await?;
    if global.output == Format::Json {
        return output::json(&found);
    }
    let at = |ms: Option<u64>| ms.map(output::time).unwrap_or_default();
    let mut table = Table::new(&["NAME", "SOURCE", "ISSUER", "EXPIRES", "NEXT", "ERROR"]);
    for certificate in found.certificates {
        table.row([
            certificate.name,
            certificate.source,
            certificate.issuer.unwrap_or_default(),
            at(certificate.not_after_unix_ms),
            at(certificate.next_unix_ms),
            certificate.error.unwrap_or_default(),
        ]);
    }
    output::table(&table)?;
    if found.files.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["FILE", "OWNER", "NAMES", "EXPIRES", "PROBLEM"]);
    for file in found.files {
        table.row([
            file.file,
            file.owner,
            file.names.join(" "),
            at(file.not_after_unix_ms),
            file.problem.unwrap_or_default(),
        ]);
    }
    output::write("\n")?;
    Ok(output::table(&table)?)
}
