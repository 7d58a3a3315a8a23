//! Signatures of Standard Webhooks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::message_id::MessageId;
use super::secret::WebhookSecret;

/// Signs `id.timestamp.body`. Returns the signature as the header has it: `v1,` and Base64.
pub(super) fn sign(secret: &WebhookSecret, id: &MessageId, timestamp: u64, body: &[u8]) -> String {
    let mut mac: Hmac<Sha256> =
        Hmac::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(id.as_str().as_bytes());
    mac.update(format!(".{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the standard's libraries.
    #[test]
    fn the_vector_of_the_standard_is_signed() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek".parse().unwrap();
        assert_eq!(
            sign(&secret, &id, 1_614_265_330, br#"{"test": 2432232314}"#),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn each_part_is_signed() {
        let secret = WebhookSecret::new(&[7; 32]).unwrap();
        let signature_of =
            |id: &str, timestamp, body: &[u8]| sign(&secret, &id.parse().unwrap(), timestamp, body);
        let signature = signature_of("msg_1", 1, b"{}");
        assert_ne!(signature, signature_of("msg_2", 1, b"{}"));
        assert_ne!(signature, signature_of("msg_1", 2, b"{}"));
        assert_ne!(signature, signature_of("msg_1", 1, b"{} "));
    }
}
