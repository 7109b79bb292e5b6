//! [`log_in`]: proves who we are to a server, and waits until it is ready.
//!
//! With SCRAM the password never travels, and the server proves that it knows it. Where TLS allows it, the
//! proof is tied to the TLS session (SCRAM-SHA-256-PLUS), so nobody in between can pass it on.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Header, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_postgres::Config;
use tokio_postgres::config::ChannelBinding as Wanted;

use super::{MAX_MESSAGE_LEN, Transport, WireError};
use crate::sql::pg_error::PgError;

/// A session that is ready.
pub(super) struct LoggedIn {
    pub stream: Box<dyn Transport>,
    /// What was read and not yet looked at.
    pub inbox: BytesMut,
    pub process_id: i32,
    pub key: i32,
    pub in_hot_standby: bool,
}

struct Conversation<'a> {
    stream: Box<dyn Transport>,
    inbox: BytesMut,
    config: &'a Config,
}

/// Goes through the log-in; the startup message is sent already.
pub(super) async fn log_in(
    stream: Box<dyn Transport>,
    config: &Config,
    binding: Option<Vec<u8>>,
) -> Result<LoggedIn, WireError> {
    let mut conversation = Conversation { stream, inbox: BytesMut::new(), config };
    conversation.authenticate(binding).await?;
    let (mut process_id, mut key, mut in_hot_standby) = (0, 0, false);
    loop {
        match conversation.message().await? {
            Message::BackendKeyData(body) => {
                (process_id, key) = (body.process_id(), body.secret_key());
            }
            Message::ParameterStatus(body) if body.name()? == "in_hot_standby" => {
                in_hot_standby = body.value()? == "on";
            }
            Message::ParameterStatus(_) | Message::NoticeResponse(_) => {}
            Message::ReadyForQuery(_) => {
                let Conversation { stream, inbox, .. } = conversation;
                return Ok(LoggedIn { stream, inbox, process_id, key, in_hot_standby });
            }
            _ => return Err(WireError::Protocol("an unexpected message after the log-in")),
        }
    }
}

impl Conversation<'_> {
    async fn authenticate(&mut self, binding: Option<Vec<u8>>) -> Result<(), WireError> {
        let must_bind = self.config.get_channel_binding() == Wanted::Require;
        let unbound = Err(WireError::Protocol(
            "it does not tie log-ins to TLS, and the settings require that",
        ));
        match self.message().await? {
            Message::AuthenticationSasl(body) => self.scram(&body, binding).await,
            _ if must_bind => unbound,
            Message::AuthenticationOk => Ok(()),
            Message::AuthenticationCleartextPassword => {
                let password = self.password()?.to_owned();
                self.answer(|outbox| frontend::password_message(&password, outbox)).await?;
                self.accepted().await
            }
            Message::AuthenticationMd5Password(body) => {
                let user = self.config.get_user().unwrap_or_default();
                let hash = md5_hash(user.as_bytes(), self.password()?, body.salt());
                self.answer(|outbox| frontend::password_message(hash.as_bytes(), outbox)).await?;
                self.accepted().await
            }
            _ => Err(WireError::Protocol("it wants a log-in of another kind than a password")),
        }
    }

    async fn scram(
        &mut self,
        offered: &AuthenticationSaslBody,
        binding: Option<Vec<u8>>,
    ) -> Result<(), WireError> {
        let (mut plain, mut plus) = (false, false);
        let mut mechanisms = offered.mechanisms();
        while let Some(mechanism) = mechanisms.next()? {
            plain |= mechanism == SCRAM_SHA_256;
            plus |= mechanism == SCRAM_SHA_256_PLUS;
        }
        let wanted = self.config.get_channel_binding();
        let binding = binding.filter(|_| wanted != Wanted::Disable);
        let (binding, mechanism) = match (binding, plus, plain) {
            (Some(digest), true, _) => {
                (ChannelBinding::tls_server_end_point(digest), SCRAM_SHA_256_PLUS)
            }
            _ if wanted == Wanted::Require => {
                let reason = "it does not tie log-ins to TLS, and the settings require that";
                return Err(WireError::Protocol(reason));
            }
            (Some(_), false, true) => (ChannelBinding::unrequested(), SCRAM_SHA_256),
            (None, _, true) => (ChannelBinding::unsupported(), SCRAM_SHA_256),
            _ => return Err(WireError::Protocol("it wants a log-in of a kind that is unknown")),
        };
        let mut scram = ScramSha256::new(self.password()?, binding);
        let first = scram.message().to_owned();
        self.answer(|outbox| frontend::sasl_initial_response(mechanism, &first, outbox)).await?;
        let Message::AuthenticationSaslContinue(body) = self.message().await? else {
            return Err(WireError::Protocol("it broke off the log-in"));
        };
        scram.update(body.data())?;
        let second = scram.message().to_owned();
        self.answer(|outbox| frontend::sasl_response(&second, outbox)).await?;
        let Message::AuthenticationSaslFinal(body) = self.message().await? else {
            return Err(WireError::Protocol("it broke off the log-in"));
        };
        scram.finish(body.data())?;
        self.accepted().await
    }

    async fn accepted(&mut self) -> Result<(), WireError> {
        match self.message().await? {
            Message::AuthenticationOk => Ok(()),
            _ => Err(WireError::Protocol("it broke off the log-in")),
        }
    }

    fn password(&self) -> Result<&[u8], WireError> {
        let missing = WireError::Protocol("it wants a password, and there is none");
        self.config.get_password().ok_or(missing)
    }

    async fn answer(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<(), WireError> {
        let mut outbox = BytesMut::new();
        write(&mut outbox)?;
        self.stream.write_all(&outbox).await?;
        self.stream.flush().await?;
        Ok(())
    }

    async fn message(&mut self) -> Result<Message, WireError> {
        loop {
            let header = Header::parse(&self.inbox)?;
            if header.is_some_and(|header| {
                usize::try_from(header.len()).is_ok_and(|len| len > MAX_MESSAGE_LEN)
            }) {
                return Err(WireError::TooLong);
            }
            match Message::parse(&mut self.inbox)? {
                Some(Message::ErrorResponse(body)) => return Err(PgError::read(&body)?.into()),
                Some(message) => return Ok(message),
                None => {}
            }
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Err(WireError::Closed);
            }
        }
    }
}
