//! A notification as it is published: its envelope, its id, and the account in its key.

use jiff::Timestamp;
use rescind::wire::{Header, Kind, event_id, notification, notified_provider};
use uuid::Uuid;

#[test]
fn a_notification_is_the_providers_bytes_with_flat_headers() {
    let received: Timestamp = "2026-11-20T09:00:00.101Z".parse().unwrap();
    let id = Uuid::from_u128(7);
    let kept = [("x-signature", "abc".to_owned())];
    let body = b"any \xff bytes".to_vec();
    let message = notification("gr4vy", id, kept.into_iter(), body.clone(), received);
    assert_eq!((message.id, message.kind), (id, Kind::Notification));
    assert_eq!(message.routing_key, "notification.gr4vy");
    assert_eq!(message.body, body);
    let properties = message.properties;
    let expected = [
        ("http-x-signature", "abc"),
        ("rescind-received-at", "2026-11-20T09:00:00.101Z"),
    ];
    let expected = expected.map(|(name, text)| (name.to_owned(), Header::Text(text.to_owned())));
    assert_eq!(properties.headers, expected.into());
    let kind = properties.message_type.as_deref();
    assert_eq!(kind, Some("provider.notification"));
    assert_eq!(properties.timestamp, received.as_second());
    assert_eq!(
        (properties.correlation_id, properties.reply_to),
        (None, None)
    );
}

#[test]
fn an_event_has_one_id_in_every_version() {
    let id = event_id("midtrans", "e-1");
    assert_eq!(id.to_string(), "8f4c351d-d08a-59ed-b3b8-4c5fbdbdda6d");
    assert_ne!(event_id("midtrans", "e-2"), id);
    assert_ne!(event_id("another", "e-1"), id);
}

#[test]
fn the_key_of_a_notification_names_its_account() {
    let named = notified_provider;
    assert_eq!(named("notification.bento-2"), Some("bento-2"));
    for other in [
        "notification.",
        "notification.Bento",
        "result.bento",
        "bento",
    ] {
        assert_eq!(named(other), None, "{other}");
    }
}
