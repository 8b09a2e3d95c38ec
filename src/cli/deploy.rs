//! `weir deploy`, `weir rollback`, `weir history`: changes of definitions, and how they end.

use crate::admin::{Deploy, DeployAll, Deployed, DeployedAll, Revisions, Rollback};
use crate::cli::args::{DeployArgs, HistoryArgs, RollbackArgs, WaitArgs};
use crate::cli::failure::{Code, Failure};
use crate::cli::follow::follow;
use crate::cli::global::{Format, Global};
use crate::cli::output::{self, Table};
use crate::cli::remote::{Remote, encode};
use crate::config::{Environment, Flags, Source, load};
use crate::spec::Service;
use anyhow::Result;
use http::Method;
use std::collections::BTreeMap;

/// Changes a service's definition, or replaces those of a file.
pub(super) async fn deploy(global: &Global, args: &DeployArgs) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    let deployed = match (&args.file, &args.service) {
        (Some(file), _) => {
            let loaded = load(&Source::File(Some(file.clone())), &Environment::current(), &Flags::default())
                .map_err(|error| Failure::new(Code::Usage, error.to_string()))?;
            if loaded.services.is_empty() {
                return Err(Failure::new(Code::Usage, format!("{} defines no service", file.display())).into());
            }
            let services = loaded.services.iter().map(|service| Service::from_model(service)).collect();
            let answer: DeployedAll =
                remote.exchange(Method::POST, "/v1/deploy", Some(&DeployAll { services })).await?;
            answer.deployed
        }
        (None, Some(service)) => {
            let path = format!("/v1/services/{}/deploy", encode(service));
            vec![remote.exchange(Method::POST, &path, Some(&patch(args)?)).await?]
        }
        (None, None) => return Err(Failure::new(Code::Usage, "name a service, or a file with -f").into()),
    };
    finish(global, &deployed, args.wait).await
}

/// Wants an earlier definition again.
pub(super) async fn rollback(global: &Global, args: &RollbackArgs) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    let path = format!("/v1/services/{}/rollback", encode(&args.service));
    let deployed: Deployed = remote.exchange(Method::POST, &path, Some(&Rollback { to: args.revision })).await?;
    finish(global, &[deployed], args.wait).await
}

/// Lists the revisions of a service, newest first.
pub(super) async fn history(global: &Global, args: &HistoryArgs) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    let found: Revisions = remote.get(&format!("/v1/services/{}/revisions", encode(&args.service))).await?;
    if global.output == Format::Json {
        return output::json(&found);
    }
    let mut table = Table::new(&["REVISION", "MADE", "SOURCE", "OUTCOME", "NOW", "RUNS", "NOTE"]);
    for revision in found.revisions.iter().rev() {
        let now = match (revision.wanted, revision.stable) {
            (true, _) => "wanted",
            (false, true) => "stable",
            (false, false) => "",
        };
        let run = revision.definition.run.as_ref();
        let runs = run.map(|run| run.image.clone().unwrap_or_else(|| run.command.join(" "))).unwrap_or_default();
        let note = revision.cause.as_ref().or(revision.note.as_ref());
        table.row([
            revision.revision.to_string(),
            output::time(revision.created_unix_ms),
            revision.source.clone(),
            revision.outcome.clone(),
            now.to_owned(),
            runs,
            note.and_then(|note| note.lines().next()).unwrap_or_default().to_owned(),
        ]);
    }
    Ok(output::table(&table)?)
}

/// Says what was accepted and, where asked, waits for how it ends; the first failure of several is the command's.
async fn finish(global: &Global, deployed: &[Deployed], wait: WaitArgs) -> Result<()> {
    for one in deployed {
        if global.output == Format::Json {
            output::json(one)?;
            continue;
        }
        let service = output::service(&one.namespace, &one.service);
        let what = if one.changed { "is wanted" } else { "is wanted already" };
        output::write(&format!("{service}: revision {} {what}\n", one.revision))?;
    }
    if !wait.wait {
        return Ok(());
    }
    let mut first = Ok(());
    for one in deployed {
        let ended = follow(global, one, wait.timeout).await;
        if first.is_ok() {
            first = ended;
        }
    }
    first
}

fn patch(args: &DeployArgs) -> Result<Deploy> {
    let mut env = BTreeMap::new();
    for text in &args.env {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| Failure::new(Code::Usage, format!("{text:?} is no variable: write NAME=VALUE")))?;
        env.insert(name.to_owned(), Some(value.to_owned()));
    }
    env.extend(args.unset_env.iter().map(|name| (name.clone(), None)));
    let command = args.command.as_deref().map(words).transpose()?;
    Ok(Deploy { image: args.image.clone(), command, env, if_revision: args.if_revision })
}

/// Splits a command into words at blanks; quotes of either kind keep blanks, a backslash keeps any character outside
/// single quotes.
fn words(text: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quote.is_some() {
        return Err(Failure::new(Code::Usage, "the command has a quote that does not end").into());
    }
    if words.is_empty() {
        return Err(Failure::new(Code::Usage, "the command is empty").into());
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn a_command_is_split_at_blanks_outside_quotes() {
        let split = |text: &str| words(text).unwrap();
        assert_eq!(split("./web --port ${PORT}"), ["./web", "--port", "${PORT}"]);
        assert_eq!(split(r#"sh -c "echo 'a b' \"c\"; exit 3""#), ["sh", "-c", r#"echo 'a b' "c"; exit 3"#]);
        assert_eq!(split(r"a '' \  'b\'"), ["a", "", " ", r"b\"]);
        assert!(words("  ").is_err() && words("sh -c 'x").is_err());
    }
}
