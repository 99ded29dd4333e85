//! Which of the layers a value comes from.

use super::*;

#[test]
fn nothing_at_all_is_valid_and_everything_is_default() {
    let loaded = load(&Sources::default(), PROVIDERS).unwrap();
    assert!(loaded.config.accounts.is_empty() && loaded.file.is_none());
    assert_eq!(loaded.config.amqp.prefetch, 256);
    assert_eq!(loaded.config.amqp.dropped_queue, "rescind.dropped");
    assert_eq!(loaded.config.ledger.retention.as_secs(), 90 * 86_400);
    assert_eq!(shown(&loaded, "ledger.retention").0, "90d");
    assert_eq!(shown(&loaded, "defaults.retry.give_up_after").0, "24h");
    let with_default = FIELDS.iter().filter(|f| f.default.is_some()).count();
    assert_eq!(loaded.effective.len(), with_default);
    assert!(loaded.effective.iter().all(|e| e.origin == Origin::Default));
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = "[amqp]\nprefetch = 1\n[http]\nlisten = '127.0.0.1:1'\n[shutdown]\ndrain = '0s'";
    let environment = [
        ("RESCIND_AMQP__PREFETCH", "2"),
        ("RESCIND_HTTP__LISTEN", "127.0.0.1:2"),
    ];
    let loaded = with(file, &environment, &[("amqp.prefetch", "3")]).unwrap();
    assert_eq!(loaded.config.amqp.prefetch, 3);
    assert_eq!(shown(&loaded, "amqp.prefetch").1, Origin::Flag);
    assert_eq!(loaded.config.listen.port(), 2);
    let origin = shown(&loaded, "http.listen").1;
    assert_eq!(origin.to_string(), "RESCIND_HTTP__LISTEN");
    assert!(loaded.config.drain.is_zero());
    assert!(matches!(
        shown(&loaded, "shutdown.drain").1,
        Origin::File(_)
    ));
    assert_eq!(
        shown(&loaded, "log.format"),
        ("json".into(), Origin::Default)
    );
}

#[test]
fn the_file_asked_for_must_exist_and_the_default_files_need_not() {
    let folder = tempfile::tempdir().unwrap();
    let (missing, there) = (folder.path().join("a.toml"), folder.path().join("b.toml"));
    std::fs::write(&there, "[amqp]\nprefetch = 7").unwrap();
    let mut sources = Sources {
        // The second cannot be looked for, as in a folder that is closed.
        default_files: vec![missing.clone(), there.join("c.toml"), there.clone()],
        ..Sources::default()
    };
    let loaded = load(&sources, PROVIDERS).unwrap();
    assert_eq!(loaded.file.as_deref(), Some(there.as_path()));
    sources.file = Some(missing);
    let error = load(&sources, PROVIDERS).unwrap_err().to_string();
    holds(&error, &["a.toml: cannot be read"]);
}

#[test]
fn an_account_can_come_from_the_environment_alone() {
    let environment = [
        ("RESCIND_PROVIDERS__SHOP_2__KIND", "example"),
        ("RESCIND_PROVIDERS__SHOP_2__BASE_URL", "http://127.0.0.1:9/"),
        ("RESCIND_PROVIDERS__SHOP_2__SERVER_KEY", SECRET),
        ("RESCIND_PROVIDERS__SHOP_2__WEBHOOK_SECRETS", "one, two"),
        ("RESCIND_PROVIDERS__SHOP_2__RETRY__FIRST", "250ms"),
        ("RESCIND_PROVIDERS__SHOP_2__OAUTH__CLIENT_SECRET", "three"),
    ];
    let loaded = with("", &environment, &[]).unwrap();
    let shop = &loaded.config.accounts["shop_2"];
    assert_eq!(shop.account.base_url, "http://127.0.0.1:9");
    assert_eq!(shop.account.secret("server_key"), Some(SECRET));
    assert_eq!(shop.account.secrets["webhook_secrets"].len(), 2);
    assert_eq!(shop.account.secret("oauth.client_secret"), Some("three"));
    assert_eq!(shop.retry.first.as_millis(), 250);
}

#[test]
fn variables_find_accounts_whose_names_no_shell_can_spell() {
    let file = "[providers.a-b__c]\nkind='example'\nbase_url='https://x.test'\nserver_key='k'";
    let environment = [("RESCIND_PROVIDERS__A_B__C__TIMEOUT", "7s")];
    let loaded = with(file, &environment, &[]).unwrap();
    assert_eq!(loaded.config.accounts["a-b__c"].timeout.as_secs(), 7);
}

#[test]
fn defaults_reach_accounts_and_are_overridden_in_part() {
    let file = format!(
        "[defaults]\ntimeout = '9s'\nretry = {{ first = '1s', factor = 3 }}\n\
         {SHOP}server_key = 'k'\nretry = {{ max = '1m' }}\nrate_per_second = 2.5\n"
    );
    let loaded = with(&file, &[], &[]).unwrap();
    let shop = &loaded.config.accounts["shop"];
    assert_eq!(shop.timeout.as_secs(), 9);
    assert_eq!((shop.retry.first.as_secs(), shop.retry.factor), (1, 3.0));
    assert_eq!(shop.retry.max.as_secs(), 60);
    assert_eq!(shop.retry.give_up_after.as_secs(), 86_400);
    assert_eq!(shop.rate_per_second, 2.5);
    let origin = |key: &str| shown(&loaded, &format!("providers.shop.{key}")).1;
    assert_eq!(origin("timeout"), Origin::Inherited);
    assert_eq!(origin("poll.first"), Origin::Default);
    assert!(matches!(origin("retry.max"), Origin::File(_)));
}
