//! Secrets: files that hold them, and that nobody is shown one.

use secrecy::ExposeSecret;

use super::*;

fn secret_file(text: &str) -> (tempfile::NamedTempFile, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, text).unwrap();
    let path = file.path().display().to_string();
    (file, path)
}

#[test]
fn a_secret_can_be_a_file_and_loses_its_last_newline_only() {
    let (_one, path) = secret_file(" s3cr3t \r\n");
    let (_many, many) = secret_file("one\n\ntwo\n");
    let file = format!("{SHOP}server_key_file = '{path}'\nwebhook_secrets_file = '{many}'\n");
    let loaded = with(&file, &[], &[]).unwrap();
    let account = &loaded.config.accounts["shop"].account;
    assert_eq!(account.secret("server_key"), Some(" s3cr3t "));
    assert_eq!(account.secrets["webhook_secrets"].len(), 2);
    let (value, _) = shown(&loaded, "providers.shop.server_key");
    assert_eq!(value, format!("*** (from {path})"));

    let (_url, url) = secret_file("amqps://a:b@broker.test/\n");
    let loaded = with("", &[("RESCIND_AMQP__URL_FILE", &url)], &[]).unwrap();
    assert_eq!(
        loaded.config.amqp.url.expose_secret(),
        "amqps://a:b@broker.test/"
    );
}

#[test]
fn further_nodes_are_secrets_like_the_first_one_and_of_its_scheme() {
    let nodes = "[amqp]\nfurther_urls = ['amqp://u:secret@b.test/', 'amqp://c.test/']\n";
    let loaded = with(nodes, &[], &[]).unwrap();
    assert_eq!(loaded.config.amqp.further_urls.len(), 2);
    assert_eq!(shown(&loaded, "amqp.further_urls").0, "***,***");
    for other in ["amqps://b.test/", "b.test", "amqp://"] {
        let error = errors("", &[("RESCIND_AMQP__FURTHER_URLS", other)]);
        let expected =
            "RESCIND_AMQP__FURTHER_URLS must be addresses like amqp.url, of the same scheme";
        holds(&error, &[expected]);
    }
}

#[test]
fn a_secret_file_that_cannot_be_used_is_named_with_the_reason() {
    let (_empty, path) = secret_file("\n");
    let file = format!("{SHOP}server_key_file = '/nowhere/key'\n");
    let error = errors(&file, &[("RESCIND_AMQP__URL_FILE", &path)]);
    holds(
        &error,
        &[
            "providers.shop.server_key_file names /nowhere/key, which cannot be read: No such",
            "RESCIND_AMQP__URL_FILE names ",
            "which is empty",
        ],
    );
    assert_eq!(error.lines().count(), 2, "{error}");
}

#[test]
fn both_forms_of_a_secret_in_one_place_are_an_error_naming_both() {
    let both = format!("{SHOP}server_key = '{SECRET}'\nserver_key_file = 'x'\n");
    let error = errors(
        &both,
        &[
            ("RESCIND_AMQP__URL", SECRET),
            ("RESCIND_AMQP__URL_FILE", "x"),
        ],
    );
    holds(
        &error,
        &[
            "providers.shop.server_key and providers.shop.server_key_file are both given",
            "RESCIND_AMQP__URL and RESCIND_AMQP__URL_FILE are both given",
        ],
    );
    assert!(!error.contains(SECRET), "{error}");
    let file = format!("{SHOP}server_key_file = '/nowhere'\n");
    let over = [("RESCIND_PROVIDERS__SHOP__SERVER_KEY", "k")];
    assert!(
        with(&file, &over, &[]).is_ok(),
        "a higher layer replaces either form"
    );
}

#[test]
fn no_secret_is_shown_anywhere() {
    let file = format!(
        "[amqp]\nurl = 'amqp://user:{SECRET}@broker.test/%2f?x={SECRET}'\n\
         [ledger]\nurl = 'postgres://user:{SECRET}@db.test/rescind?password={SECRET}'\n\
         {SHOP}server_key = '{SECRET}'\nwebhook_secrets = ['{SECRET}', '{SECRET}']\n"
    );
    let loaded = with(&file, &[], &[]).unwrap();
    assert!(!format!("{loaded:?}").contains(SECRET));
    assert_eq!(
        shown(&loaded, "amqp.url").0,
        "amqp://user:***@broker.test/%2f?***"
    );
    assert_eq!(
        shown(&loaded, "ledger.url").0,
        "postgres://user:***@db.test/rescind?***"
    );
    assert_eq!(shown(&loaded, "providers.shop.server_key").0, "***");
    assert_eq!(
        shown(&loaded, "providers.shop.webhook_secrets").0,
        "***,***"
    );

    for wrong in [
        format!("{SHOP}server_key = '{SECRET}"),
        format!("{SHOP}server_key = {SECRET}"),
        format!("{SHOP}server_key = 'k'\nwebhook_secrets = '{SECRET}'\n"),
        format!("{SHOP}server_key = ['{SECRET}']\n"),
        format!("{SHOP}serverkey = '{SECRET}'\n"),
        format!("[amqp]\nurl = 'amqp://user:{SECRET}'\n"),
        format!("[ledger]\nurl = '{SECRET}'\n"),
    ] {
        let error = with(&wrong, &[], &[]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(SECRET), "{error}");
    }
}
