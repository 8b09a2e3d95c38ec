//! One order, from its placing to the certificate.

use crate::control::acme::Acme;
use crate::control::acme::identifier;
use crate::control::certificates::{IssueError, Made, Order as Wish};
use crate::control::store::{OrderRecord, Secret};
use crate::model::Challenge;
use crate::table::certificates::Challenges;
use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, ChallengeHandle, ChallengeType, Error, Identifier, NewOrder,
    Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::time::Duration;

/// How the authority is asked whether it is ready: after 250 ms, then ever later, for two minutes.
const PATIENCE: RetryPolicy = RetryPolicy::new().backoff(1.5).timeout(Duration::from_secs(120));

/// An answer to a challenge; taken out when dropped.
struct Answer<'a> {
    challenges: &'a Challenges,
    kind: Challenge,
    name: String,
    token: String,
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        match self.kind {
            Challenge::Http01 => self.challenges.remove_token(&self.token),
            Challenge::TlsAlpn01 => self.challenges.remove_certificate(&self.name),
        }
    }
}

/// Places an order, or takes one up that has begun, and leads it to its certificate.
pub(super) async fn lead(acme: &Acme, wish: &Wish) -> Result<Made, IssueError> {
    match go(acme, wish).await {
        Ok(made) => {
            acme.drop_order(&wish.name).await;
            Ok(made)
        }
        Err(error) => {
            if is_of(&error, "accountDoesNotExist") {
                acme.forget_account().await;
            }
            // What the authority refused is over; what it did not answer may go on.
            if matches!(error, Error::Api(_) | Error::Str(_)) {
                acme.drop_order(&wish.name).await;
            }
            Err(refusal(error))
        }
    }
}

async fn go(acme: &Acme, wish: &Wish) -> Result<Made, Error> {
    let account = acme.account().await.map_err(|error| Error::Other(error.into()))?;
    let (mut order, key) = match resume(acme, &account, wish).await? {
        Some(begun) => begun,
        None => place(acme, &account, wish).await?,
    };
    if order.state().status == OrderStatus::Pending {
        let answers = prove(acme, wish, &mut order).await?;
        let status = order.poll_ready(&PATIENCE).await;
        drop(answers);
        if status? == OrderStatus::Invalid {
            return Err(why(&mut order).await);
        }
    }
    if order.state().status == OrderStatus::Ready {
        order.finalize_csr(&request(&wish.name, &key)?).await?;
    }
    let chain = order.poll_certificate(&PATIENCE).await?;
    Ok(Made { chain, key: Secret::new(key.serialize_pem()) })
}

/// Takes an order up that an earlier attempt or an earlier Weir placed; `None` when there is none, or it is over.
async fn resume(acme: &Acme, account: &Account, wish: &Wish) -> Result<Option<(Order, KeyPair)>, Error> {
    let Some(begun) = acme.begun(&wish.name) else { return Ok(None) };
    let found = match account.order(begun.url).await {
        Ok(mut order) => (order.state().status != OrderStatus::Invalid).then_some(order),
        Err(Error::Api(_)) => None,
        Err(error) => return Err(error),
    };
    match (found, KeyPair::from_pem(begun.key.reveal())) {
        (Some(order), Ok(key)) => Ok(Some((order, key))),
        _ => {
            acme.drop_order(&wish.name).await;
            Ok(None)
        }
    }
}

async fn place(acme: &Acme, account: &Account, wish: &Wish) -> Result<(Order, KeyPair), Error> {
    let key = KeyPair::generate().map_err(other)?;
    let names = [Identifier::Dns(wish.name.to_string())];
    let replacing = match &wish.replaces {
        None => None,
        Some(id) => match account.new_order(&NewOrder::new(&names).replaces(identifier(id))).await {
            Ok(order) => Some(order),
            // It does not know of replacing, or that certificate was replaced already (RFC 9773 §5).
            Err(Error::Unsupported(_) | Error::Api(_) | Error::Other(_)) => None,
            Err(error) => return Err(error),
        },
    };
    let order = match replacing {
        Some(order) => order,
        None => account.new_order(&NewOrder::new(&names)).await?,
    };
    let begun = OrderRecord {
        directory: acme.directory.clone(),
        url: order.url().to_owned(),
        key: Secret::new(key.serialize_pem()),
    };
    acme.keep_order(&wish.name, begun).await.map_err(|error| Error::Other(error.into()))?;
    Ok((order, key))
}

/// Puts the answers to the challenges up and says so.
async fn prove<'a>(acme: &'a Acme, wish: &Wish, order: &mut Order) -> Result<Vec<Answer<'a>>, Error> {
    let mut answers = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            _ => return Err(Error::Str("an authorization that is over")),
        }
        let kind = choose(acme, wish, &authorization)
            .ok_or(Error::Str("a challenge that Weir answers: the authority offers none of acme.challenges"))?;
        let mut challenge = authorization.challenge(offered(kind)).ok_or(Error::Str("the challenge"))?;
        answers.push(answer(&acme.challenges, kind, &wish.name, &challenge)?);
        challenge.set_ready().await?;
    }
    Ok(answers)
}

/// Chooses among the challenges that the authority offers and that the configuration allows: after a failure the next.
fn choose(acme: &Acme, wish: &Wish, authorization: &AuthorizationHandle<'_>) -> Option<Challenge> {
    let is_offered = |kind: &&Challenge| authorization.challenges.iter().any(|one| one.r#type == offered(**kind));
    let possible: Vec<&Challenge> = acme.options.challenges.iter().filter(is_offered).collect();
    possible.get(wish.failures as usize % possible.len().max(1)).map(|kind| **kind)
}

fn offered(kind: Challenge) -> ChallengeType {
    match kind {
        Challenge::Http01 => ChallengeType::Http01,
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

/// Puts one answer up.
fn answer<'a>(
    challenges: &'a Challenges,
    kind: Challenge,
    name: &str,
    challenge: &ChallengeHandle<'_>,
) -> Result<Answer<'a>, Error> {
    let proof = challenge.key_authorization();
    let has_room = match kind {
        Challenge::Http01 => challenges.put_token(&challenge.token, proof.as_str()),
        Challenge::TlsAlpn01 => challenges.put_certificate(name, Arc::new(shown(name, proof.digest().as_ref())?)),
    };
    let answer = Answer { challenges, kind, name: name.to_owned(), token: challenge.token.clone() };
    has_room.then_some(answer).ok_or(Error::Str("room for one more answer to a challenge"))
}

/// Makes the certificate that tls-alpn-01 wants to see (RFC 8737 §3).
fn shown(name: &str, digest: &[u8]) -> Result<CertifiedKey, Error> {
    let key = KeyPair::generate().map_err(other)?;
    let mut params = CertificateParams::new([name.to_owned()]).map_err(other)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key).map_err(other)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).map_err(other)?;
    // Unchecked: its critical extension, which the authority looks for, is one that nobody else knows.
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

fn request(name: &str, key: &KeyPair) -> Result<Vec<u8>, Error> {
    let mut params = CertificateParams::new([name.to_owned()]).map_err(other)?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key).map_err(other)?.der().to_vec())
}

/// Finds out why an order became invalid: the authorization has the error of its challenge (RFC 8555 §7.1.6).
async fn why(order: &mut Order) -> Error {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.clone()) {
            return Error::Api(problem);
        }
    }
    Error::Str("a reason why the authority refused the order")
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Other(Box::new(error))
}

/// Returns whether it is a problem of this type (RFC 8555 §6.7).
fn is_of(error: &Error, kind: &str) -> bool {
    let Error::Api(problem) = error else { return false };
    problem.r#type.as_deref().and_then(|text| text.strip_prefix("urn:ietf:params:acme:error:")) == Some(kind)
}

/// Says an error as the keeper takes it.
pub(super) fn refusal(error: Error) -> IssueError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    if is_of(&error, "rateLimited") { IssueError::Limited(text) } else { IssueError::Failed(text) }
}
