//! `weir diff`: what a configuration file would change of what runs.

use crate::admin::{Candidate, ConfigurationChange, Differences};
use crate::cli::args::DiffArgs;
use crate::cli::failure::{Code, Failure};
use crate::cli::global::{Format, Global};
use crate::cli::output;
use crate::cli::remote::Remote;
use anyhow::Result;
use http::Method;
use std::process::ExitCode;

/// Exit code that says that there are differences.
const HAS_CHANGES: u8 = 10;

/// Compares a file, else the one that the running Weir reads, with what runs; prints each key that differs with the value
/// before and after. Ends with 0 without differences, with 10 with some.
///
/// # Errors
/// When the file cannot be read or is refused, or no Weir answers.
pub(super) async fn diff(global: &Global, args: &DiffArgs) -> Result<ExitCode> {
    let candidate = match &args.file {
        None => Candidate::default(),
        Some(path) => {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::new(Code::Usage, format!("{name}: cannot be read: {error}")))?;
            Candidate { name: Some(name), text: Some(text) }
        }
    };
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    let found: Differences = remote.exchange(Method::POST, "/v1/configuration/diff", Some(&candidate)).await?;
    if global.output == Format::Json {
        output::json(&found)?;
    } else if found.changes.is_empty() {
        output::write("nothing would change\n")?;
    } else {
        output::write(&found.changes.iter().map(line).collect::<String>())?;
    }
    Ok(if found.changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(HAS_CHANGES) })
}

/// Returns one change as a line: `+` comes, `-` goes, `~` changes.
pub(super) fn line(change: &ConfigurationChange) -> String {
    let owner = change.owner.as_ref().map(|owner| format!("  [runs: {owner}]")).unwrap_or_default();
    let restart = if change.live { "" } else { "  [needs a restart]" };
    let what = match (&change.before, &change.after) {
        (None, Some(after)) => format!("+ {} = {after}", change.key),
        (Some(before), None) => format!("- {} = {before}", change.key),
        (Some(before), Some(after)) if before == after => format!("~ {}: another value of {after}", change.key),
        (Some(before), Some(after)) => format!("~ {}: {before} → {after}", change.key),
        (None, None) => format!("~ {}", change.key),
    };
    format!("{what}{owner}{restart}\n")
}

#[cfg(test)]
mod tests {
    use super::line;
    use crate::admin::ConfigurationChange;

    #[test]
    fn a_line_says_what_comes_goes_and_changes() {
        let shown = |before: Option<&str>, after: Option<&str>| {
            line(&ConfigurationChange {
                key: "service.web.replicas".to_owned(),
                before: before.map(str::to_owned),
                after: after.map(str::to_owned),
                live: before.is_some(),
                service: Some("web".to_owned()),
                owner: after.is_none().then(|| "file".to_owned()),
            })
        };
        assert_eq!(shown(None, Some("3")), "+ service.web.replicas = 3  [needs a restart]\n");
        assert_eq!(shown(Some("2"), None), "- service.web.replicas = 2  [runs: file]\n");
        assert_eq!(shown(Some("2"), Some("3")), "~ service.web.replicas: 2 → 3\n");
        assert_eq!(shown(Some("***"), Some("***")), "~ service.web.replicas: another value of ***\n");
    }
}
