//! The rules of a client: the URLs and addresses that it sends to.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::address::is_public;
use super::error::{SendError, SendErrorKind};
use super::url::{Host, WebhookUrl};

/// The most addresses of a host that are tried. A name must not turn one request into a scan.
const MOST_TRIED: usize = 8;

/// The URLs and addresses that a client sends to.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    pub(super) allows_http: bool,
    pub(super) allows_private_addresses: bool,
    /// The allowed ports, beside the default port of each scheme.
    pub(super) ports: Vec<u16>,
}

impl Rules {
    /// Checks all that can be told without a resolver.
    pub(super) fn check(&self, url: &WebhookUrl) -> Result<(), SendError> {
        if !url.is_https() && !self.allows_http {
            let detail = "the client sends to https:// only, unless it is set up by \
                          `HttpsClient::dangerous_allow_http`";
            return Err(SendError::new(SendErrorKind::UrlRefused, detail));
        }
        if !url.has_default_port() && !self.ports.contains(&url.port()) {
            let port = url.port();
            let detail = format!(
                "the client does not send to port {port}, unless `HttpsClient::allow_ports` allows it"
            );
            return Err(SendError::new(SendErrorKind::UrlRefused, detail));
        }
        match url.host() {
            Host::Name(_) => Ok(()),
            Host::Address(address) => self.allowed(&[*address]).map(drop),
        }
    }

    /// Returns those addresses of a host that the client connects to, at least one.
    pub(super) fn allowed(&self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, SendError> {
        let allowed = addresses.iter().copied();
        let allowed = allowed.filter(|it| self.allows_private_addresses || is_public(*it));
        let allowed: Vec<_> = allowed.take(MOST_TRIED).collect();
        if allowed.is_empty() {
            return Err(refused(addresses));
        }
        Ok(allowed)
    }
}

fn refused(addresses: &[IpAddr]) -> SendError {
    let mut detail = "the host has no public address".to_owned();
    for (at, address) in addresses.iter().take(MOST_TRIED).enumerate() {
        let before = if at == 0 { ", but" } else { "," };
        let _ = write!(detail, "{before} {address}"); // a String takes everything
    }
    SendError::new(SendErrorKind::AddressRefused, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(rules: &Rules, url: &str) -> Option<SendErrorKind> {
        let checked = rules.check(&url.parse().unwrap());
        checked.err().map(|error| error.kind())
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn only_https_is_allowed_unless_told() {
        let http = Rules {
            allows_http: true,
            ..Rules::default()
        };
        let refused = Some(SendErrorKind::UrlRefused);
        assert_eq!(kind(&Rules::default(), "http://a.example"), refused);
        assert_eq!(kind(&Rules::default(), "http://a.example:443"), refused);
        assert_eq!(kind(&http, "http://a.example"), None);
        assert_eq!(kind(&http, "https://a.example"), None);
    }

    #[test]
    fn only_the_default_port_is_allowed_unless_told() {
        let ports = Rules {
            ports: vec![8443],
            ..Rules::default()
        };
        let refused = Some(SendErrorKind::UrlRefused);
        assert_eq!(kind(&Rules::default(), "https://a.example:8443"), refused);
        assert_eq!(kind(&Rules::default(), "https://a.example:80"), refused);
        assert_eq!(kind(&ports, "https://a.example:8443"), None);
        assert_eq!(kind(&ports, "https://a.example"), None);
        assert_eq!(kind(&ports, "https://a.example:6379"), refused);
    }

    #[test]
    fn a_private_address_in_a_url_is_refused_unless_told() {
        let private = Rules {
            allows_private_addresses: true,
            ..Rules::default()
        };
        for host in [
            "127.0.0.1",
            "10.0.0.1",
            "169.254.169.254",
            "[::1]",
            "[::ffff:7f00:1]",
        ] {
            let url = format!("https://{host}/");
            let refused = Some(SendErrorKind::AddressRefused);
            assert_eq!(kind(&Rules::default(), &url), refused, "{url}");
            assert_eq!(kind(&private, &url), None, "{url}");
        }
        assert_eq!(kind(&Rules::default(), "https://9.9.9.9/"), None);
    }

    #[test]
    fn of_the_addresses_of_a_name_only_the_public_ones_are_used() {
        let mixed = addresses(&[
            "127.0.0.1",
            "9.9.9.9",
            "::1",
            "::ffff:10.0.0.1",
            "2606:4700::1",
        ]);
        let allowed = Rules::default().allowed(&mixed).unwrap();
        assert_eq!(allowed, addresses(&["9.9.9.9", "2606:4700::1"]));
        let error = Rules::default().allowed(&mixed[..1]).unwrap_err();
        let detail = "the host has no public address, but 127.0.0.1";
        assert_eq!(error.to_string(), detail);
    }

    #[test]
    fn few_addresses_of_a_name_are_tried() {
        let many = [IpAddr::from([9, 9, 9, 9]); 100];
        assert_eq!(Rules::default().allowed(&many).unwrap().len(), MOST_TRIED);
        let private = [IpAddr::from([10, 0, 0, 1]); 100];
        let error = Rules::default().allowed(&private).unwrap_err();
        assert!(error.to_string().len() < 200);
    }
}
