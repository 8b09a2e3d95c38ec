//! Certificates from an ACME authority (RFC 8555): one account, kept in the store, and orders.
//!
//! An order is written down as soon as it is placed and taken up again after a crash, so that a Weir that is killed again
//! and again does not order again and again. `client.rs` carries the requests, `order.rs` leads one order to its
//! certificate. Everything has a bound: a request 15 s, an order 5 minutes.

mod client;
mod order;

use crate::control::acme::client::Client;
use crate::control::certificates::{IssueError, Issuer, Made, Order, RenewalId, Window};
use crate::control::store::{AccountRecord, Change, Contents, OrderRecord, Secret, Store};
use crate::control::{AccountBindingOptions, AcmeOptions};
use crate::model::AcmeDirectory;
use crate::table::certificates::Challenges;
use async_trait::async_trait;
use instant_acme::{Account, AccountCredentials, CertificateIdentifier, ExternalAccountKey, LetsEncrypt, NewAccount};
use rcgen::KeyPair;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Longest that one order may take.
const ORDER_LIMIT: Duration = Duration::from_secs(300);
/// Bounds of the time after which the authority is asked again when to renew; it says how long (RFC 9773 §4.3).
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));

/// Why nothing can be ordered.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The root of the authority cannot be read, or the system has none.
    #[error("the authority cannot be trusted: {0}")]
    Trust(String),
}

/// Orders certificates at one authority.
pub struct Acme {
    options: AcmeOptions,
    directory: String,
    client: Client,
    store: Store,
    challenges: Challenges,
    /// Short lock: orders that have begun, by name.
    orders: Mutex<HashMap<String, OrderRecord>>,
    stored: Mutex<Option<AccountRecord>>,
    /// Held while the account is opened or made, so that there is one.
    account: tokio::sync::Mutex<Option<Account>>,
}

impl std::fmt::Debug for Acme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acme").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Acme {
    /// Takes up account and orders from the store; speaks to nobody yet.
    ///
    /// # Errors
    /// [`AcmeError`].
    pub fn open(
        options: &AcmeOptions,
        store: Store,
        contents: &Contents,
        challenges: Challenges,
    ) -> Result<Self, AcmeError> {
        let directory = match &options.directory {
            AcmeDirectory::Production => LetsEncrypt::Production.url().to_owned(),
            AcmeDirectory::Staging => LetsEncrypt::Staging.url().to_owned(),
            AcmeDirectory::Url(url) => url.clone(),
        };
        let client = Client::new(options.directory_ca.as_deref()).map_err(AcmeError::Trust)?;
        let here = |order: &&OrderRecord| order.directory == directory;
        let orders = contents.orders.iter().filter(|(_, order)| here(order));
        let orders = orders.map(|(name, order)| (name.clone(), order.clone())).collect();
        let stored = contents.accounts.get(&directory).cloned();
        Ok(Self {
            options: options.clone(),
            directory,
            client,
            store,
            challenges,
            orders: Mutex::new(orders),
            stored: Mutex::new(stored),
            account: tokio::sync::Mutex::default(),
        })
    }

    /// Returns the account: the stored one, else a new one, stored before it is used.
    async fn account(&self) -> Result<Account, IssueError> {
        let mut account = self.account.lock().await;
        if let Some(account) = &*account {
            return Ok(account.clone());
        }
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let opened = match stored {
            Some(record) => self.reopen(&record).await?,
            None => self.register().await?,
        };
        *account = Some(opened.clone());
        Ok(opened)
    }

    async fn reopen(&self, record: &AccountRecord) -> Result<Account, IssueError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(record.key.reveal().as_bytes())
            .map_err(|error| IssueError::Failed(format!("the key of the account cannot be read: {error}")))?;
        let builder = Account::builder_with_http(Box::new(self.client.clone()));
        let account = builder.from_parts(record.id.clone(), key, self.directory.clone());
        account.await.map_err(order::refusal)
    }

    async fn register(&self) -> Result<Account, IssueError> {
        let contact: Vec<String> = self.options.email.iter().map(|email| format!("mailto:{email}")).collect();
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        // The configuration says so: without it, nothing is ordered.
        let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let bound = |binding: &AccountBindingOptions| match binding.key() {
            Ok(key) => Ok(ExternalAccountKey::new(binding.key_id.clone(), &key)),
            Err(bad) => Err(IssueError::Failed(format!("acme.eab_key_file: {bad}"))),
        };
        let binding = self.options.binding.as_ref().map(bound).transpose()?;
        let builder = Account::builder_with_http(Box::new(self.client.clone()));
        let (account, credentials) =
            builder.create(&new, self.directory.clone(), binding.as_ref()).await.map_err(order::refusal)?;
        let key = pem(&credentials).map_err(|error| IssueError::Failed(error.to_string()))?;
        let record = AccountRecord { id: account.id().to_owned(), key, email: self.options.email.clone() };
        let change = Change::PutAccount(self.directory.clone(), record.clone());
        self.store.commit(vec![change]).await.map_err(|error| IssueError::Failed(error.to_string()))?;
        *self.stored.lock().unwrap_or_else(PoisonError::into_inner) = Some(record);
        tracing::info!(directory = self.directory, account = account.id(), "registered with the authority");
        Ok(account)
    }

    /// Forgets an account that the authority does not know any more: the next order makes another.
    async fn forget_account(&self) {
        *self.account.lock().await = None;
        *self.stored.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn begun(&self, name: &str) -> Option<OrderRecord> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Writes an order down before anything is done for it.
    async fn keep_order(&self, name: &str, order: OrderRecord) -> Result<(), IssueError> {
        let change = Change::PutOrder(name.to_owned(), order.clone());
        self.store.commit(vec![change]).await.map_err(|error| IssueError::Failed(error.to_string()))?;
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), order);
        Ok(())
    }

    /// Forgets an order that came to its end.
    async fn drop_order(&self, name: &str) {
        if self.orders.lock().unwrap_or_else(PoisonError::into_inner).remove(name).is_some() {
            // What is kept of it at worst is asked for once more, and found to be over.
            let _ = self.store.note(vec![Change::DropOrder(name.to_owned())]).await;
        }
    }
}

/// Writes the key of an account in PEM.
fn pem(credentials: &AccountCredentials) -> Result<Secret, rcgen::Error> {
    let key = KeyPair::try_from(credentials.private_key().secret_pkcs8_der())?;
    Ok(Secret::new(key.serialize_pem()))
}

#[async_trait]
impl Issuer for Acme {
    async fn issue(&self, order: &Order) -> Result<Made, IssueError> {
        let late = || IssueError::Failed(format!("no certificate within {} s", ORDER_LIMIT.as_secs()));
        tokio::time::timeout(ORDER_LIMIT, order::lead(self, order)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn window(&self, id: &RenewalId) -> Result<Option<(Window, u64)>, IssueError> {
        let id = identifier(id);
        match self.account().await?.renewal_info(&id).await {
            Err(instant_acme::Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(order::refusal(error)),
            Ok((info, again)) => {
                let ms = |at: i128| u64::try_from(at / 1_000_000).unwrap_or(0);
                let window = info.suggested_window;
                let window = Window {
                    start_ms: ms(window.start.unix_timestamp_nanos()),
                    end_ms: ms(window.end.unix_timestamp_nanos()),
                };
                let again = again.clamp(ASK_AGAIN.0, ASK_AGAIN.1);
                Ok(Some((window, u64::try_from(again.as_millis()).unwrap_or(u64::MAX))))
            }
        }
    }

    async fn allows(&self, name: &str) -> Result<(), IssueError> {
        let ask = self.options.on_demand_ask.as_deref();
        let ask = ask.ok_or_else(|| IssueError::Failed("nobody says which names are welcome".to_owned()))?;
        let joint = if ask.contains('?') { '&' } else { '?' };
        match self.client.get(&format!("{ask}{joint}domain={name}")).await {
            Ok(status) if status.as_u16() == 200 => Ok(()),
            Ok(status) if status.is_server_error() => Err(IssueError::Failed(format!("{ask} answered {status}"))),
            Ok(status) => Err(IssueError::Unwelcome(format!("{ask} answered {status}"))),
            Err(error) => Err(IssueError::Failed(format!("{ask} did not answer: {error}"))),
        }
    }
}

fn identifier(id: &RenewalId) -> CertificateIdentifier<'static> {
    use rustls::pki_types::Der;
    CertificateIdentifier::new(Der::from_slice(&id.authority), Der::from_slice(&id.serial)).into_owned()
}
