//! The configuration as an operator meets it: files, variables, flags and mistakes.

use jiff::Timestamp;
use secrecy::ExposeSecret;

use super::*;
use crate::job::Payment;
use crate::problem::variable;
use crate::providers::{Abilities, Ask, Asked, DoubtPolicy, Login, Reading, Request, Setting};
use crate::providers::{Response, Token};
use crate::settings::Resolved;

struct Example;

impl Provider for Example {
    fn kind(&self) -> &'static str {
        "example"
    }
    fn title(&self) -> &'static str {
        "Example"
    }
    fn settings(&self) -> &'static [Setting] {
        const SETTINGS: &[Setting] = &[
            Setting::secret("server_key"),
            Setting::secret("webhook_secrets").several(),
            Setting::plain("merchant").optional(),
            Setting::plain("oauth.token_url").optional(),
            Setting::secret("oauth.client_secret").optional(),
        ];
        SETTINGS
    }
    fn check(&self, account: &Account) -> Result<(), String> {
        match account.plain("merchant") {
            Some("wrong") => Err("merchant is wrong".to_owned()),
            _ => Ok(()),
        }
    }
    fn abilities(&self, _: &Account, _: &crate::job::Job) -> Abilities {
        Abilities {
            lookup: false,
            finds_all: true,
            look_first: false,
            doubt: DoubtPolicy::Person,
        }
    }
    fn payment(&self, _: &Asked<'_>) -> Result<Payment, String> {
        unreachable!()
    }
    fn cancel(&self, _: &Ask<'_>) -> Request {
        unreachable!()
    }
    fn lookup(&self, _: &Ask<'_>) -> Request {
        unreachable!()
    }
    fn read_cancel(&self, _: &Ask<'_>, _: &Response<'_>) -> Reading {
        unreachable!()
    }
    fn read_lookup(&self, _: &Ask<'_>, _: &Response<'_>) -> Reading {
        unreachable!()
    }
    fn login(&self, _: &Account, _: Timestamp, _: &str) -> Result<Login, String> {
        unreachable!()
    }
    fn read_login(&self, _: &Response<'_>) -> Result<Token, String> {
        unreachable!()
    }
}

const PROVIDERS: &[&dyn Provider] = &[&Example];
const SHOP: &str = "[providers.shop]\nkind = 'example'\nbase_url = 'https://pay.test/v2/'\n";
const SECRET: &str = "s3cr3t";

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = pairs.iter().map(|(a, b)| ((*a).into(), (*b).into()));
    owned.collect()
}

fn with(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Loaded, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rescind.toml");
    std::fs::write(&path, file).unwrap();
    let sources = Sources {
        file: Some(path),
        environment: pairs(environment),
        flags: pairs(flags),
        ..Sources::default()
    };
    load(&sources, PROVIDERS)
}

fn errors(file: &str, environment: &[(&str, &str)]) -> String {
    with(file, environment, &[]).unwrap_err().to_string()
}

fn shown(loaded: &Loaded, path: &str) -> (String, Origin) {
    let row = loaded.effective.iter().find(|e| e.path == path);
    row.map(|e| (e.value.clone(), e.origin.clone())).unwrap()
}

#[track_caller]
fn holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

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
fn unknown_keys_are_errors_with_a_suggestion() {
    let file = format!(
        "prefetch = 3\n[ampq]\nurl = 'x'\n[amqp]\nprefecth = 3\n[defaults]\n\
         retry = {{ frist = '1s' }}\n{SHOP}server_key = 'k'\nsever_key_file = 'x'\n\
         \"retry.max\" = '1s'\n[nonsense]\n[provider.other]\nkind = 'example'\n"
    );
    let environment = [
        ("RESCIND_AMQP_URL", SECRET),
        ("RESCIND_DEFAULTS__TIME_OUT", "1s"),
        ("RESCIND_PROVIDER__OTHER__TOKEN", SECRET),
        ("RESCIND_CONFIG", "x"),
        ("RESCIND_FAIL_POINT", "x"),
        ("RESCIND_PORT", "tcp://10.0.0.1:8620"),
        ("RESCIND_PORT_8620_TCP_ADDR", "10.0.0.1"),
        ("RESCIND_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ];
    let error = errors(&file, &environment);
    holds(
        &error,
        &[
            "prefetch is not a setting; did you mean amqp.prefetch?",
            "ampq.url is not a setting; did you mean amqp.url?",
            "amqp.prefecth is not a setting; did you mean amqp.prefetch?",
            "defaults.retry.frist is not a setting; did you mean defaults.retry.first?",
            "providers.shop.sever_key_file is not a setting; did you mean providers.shop.server_key_file?",
            "providers.shop.\"retry.max\" is not a setting",
            "nonsense is not a setting; remove it",
            "provider.other.kind is not a setting; did you mean providers.other.kind?",
            "RESCIND_PROVIDER__OTHER__TOKEN is not a setting; did you mean RESCIND_PROVIDERS__OTHER__TOKEN?",
            "RESCIND_AMQP_URL is not a setting; did you mean RESCIND_AMQP__URL?",
            "RESCIND_DEFAULTS__TIME_OUT is not a setting; did you mean RESCIND_DEFAULTS__TIMEOUT?",
        ],
    );
    assert_eq!(error.lines().count(), 11, "{error}");
}

#[test]
fn all_problems_are_listed_one_a_line() {
    let file = "[amqp]\nprefetch = 0\ntopology = 'declared'\nurl = 'http://x'\nresults_queue = 'rescind.dead'\n\
        ca_file = 'x'\n[ledger]\nurl = 'sqlite://x'\nretention = 90\n[http]\nlisten = 'localhost:1'\n\
        [defaults]\ntimeout = '0s'\nretry = { first = '1h', factor = 0.5 }\nbreaker = '3s'\n\
        max_in_flight = '4'\n[providers.a]\nkind = 'exmaple'\n[providers.b]\nkind = 'example'\n\
        [providers.C]\nkind = 'example'\n[providers.unknown]\nkind = 'example'\n[providers.d]\n[providers.e]\nkind = 'example'\n\
        base_url = 'https://e.test'\nserver_key = 'k'\nmerchant = 'wrong'\n";
    let error = errors(file, &[("RESCIND_SHUTDOWN__DRAIN", "soon")]);
    let expected = [
        "amqp.prefetch must be a whole number from 1 to 2000, not \"0\"",
        "amqp.topology must be declare or verify, not \"declared\"",
        "amqp.url must begin with amqp:// or amqps://",
        "ledger.url must name a file",
        "ledger.retention must be a duration above zero",
        "http.listen must be an IP address and a port",
        "defaults.timeout must be a duration above zero",
        "defaults.retry.factor must be a number of at least 1, not \"0.5\"",
        "defaults.retry.max must not be shorter than defaults.retry.first",
        "defaults.breaker is a table",
        "defaults.max_in_flight must be a whole number",
        "RESCIND_SHUTDOWN__DRAIN must be a duration",
        "providers.a.kind = \"exmaple\" is not a kind; did you mean \"example\"?",
        "providers.b.server_key is missing; set it, providers.b.server_key_file, RESCIND_PROVIDERS__B__SERVER_KEY or",
        "providers.b.base_url is missing",
        "providers.C is not a valid account name",
        "providers.unknown is what metrics call",
        "providers.d.kind is missing; set one of example",
        "providers.e cannot be used: merchant is wrong",
    ];
    holds(&error, &expected);
    let names = errors(
        "[amqp]\nresults_queue = 'rescind.dead'\ncert_file = 'x'",
        &[],
    );
    holds(
        &names,
        &[
            "amqp.dead_queue is the same as amqp.results_queue",
            "amqp.cert_file is only for TLS",
            "amqp.cert_file needs amqp.key_file",
        ],
    );
    assert_eq!(error.lines().count(), expected.len(), "{error}");
}

#[test]
fn plain_http_is_for_loopback_unless_allowed() {
    let account = |url: &str, more: &str| {
        let text =
            format!("[providers.shop]\nkind='example'\nserver_key='k'\nbase_url='{url}'\n{more}\n");
        with(&text, &[], &[]).map(|loaded| loaded.config.accounts["shop"].account.base_url.clone())
    };
    for fine in [
        "http://127.0.0.1:8",
        "http://[::1]:8",
        "http://localhost",
        "https://x.test/a",
    ] {
        assert_eq!(account(&format!("{fine}/"), "").unwrap(), fine);
    }
    for (wrong, why) in [
        ("http://x.test", "allow_plain_http"),
        ("http://127.0.0.1.x.test", "allow_plain_http"),
        ("https://u:s3cr3t@x.test", "credentials"),
        ("https://x.test?key=s3cr3t", "query"),
        ("https://x.test#s3cr3t", "fragment"),
        ("ftp://x.test/s3cr3t", "https://"),
        ("s3cr3t", "URL"),
    ] {
        let error = account(wrong, "").unwrap_err().to_string();
        holds(&error, &["providers.shop.base_url", why]);
        assert!(!error.contains(SECRET), "{error}");
    }
    assert!(account("http://x.test", "allow_plain_http = true").is_ok());
    let token_url = account("https://x.test", "oauth.token_url = 'http://x.test'");
    holds(
        &token_url.unwrap_err().to_string(),
        &["shop.oauth.token_url must begin"],
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

#[test]
fn names_and_tables_of_the_wrong_shape_are_named() {
    let error = errors(
        "[providers.'a.b']\nkind = 'example'\n[amqp]\nurl = { host = 'x' }",
        &[
            ("RESCIND_PROVIDERS__SHOP", "x"),
            ("RESCIND_PROVIDERS__A$__TIMEOUT", "1s"),
            ("RESCIND_AMQP", "x"),
        ],
    );
    holds(
        &error,
        &[
            "providers.a.b is not a valid account name",
            "amqp.url.host is not a setting",
            "providers.shop.kind is missing",
            "RESCIND_PROVIDERS__A$__TIMEOUT: providers.a$ is not a valid account name",
            "RESCIND_AMQP is a table",
        ],
    );
    holds(&errors("providers = 3", &[]), &["providers is a table"]);
}

#[test]
fn a_file_that_is_not_toml_is_named_with_the_line() {
    let error = errors("[amqp]\n\nprefetch = = 3\n", &[]);
    holds(&error, &["rescind.toml: line 3: is not TOML: "]);
}

/// A row that nothing reads would be a setting without effect.
#[test]
fn every_setting_changes_the_configuration() {
    let tls = "[amqp]\nurl = 'amqps://broker.test'\ncert_file = 'c'\nkey_file = 'k'\n\
               [ledger]\nurl = 'postgres://db.test/rescind'\ncert_file = 'c'\nkey_file = 'k'\n";
    let file = format!("{tls}{SHOP}server_key = 'k'\n");
    let result = |environment: &[(&str, &str)], flags: &[(&str, &str)]| {
        format!("{:?}", with(&file, environment, flags).unwrap().config)
    };
    let before = result(&[], &[]);
    for field in FIELDS.iter().filter(|f| f.form != Form::Address) {
        let value = match field.form {
            Form::Flag => "true",
            Form::Choice(words) => words[1],
            Form::Whole(..) | Form::Number(_) => "17",
            Form::Span | Form::SpanOrZero => "3m",
            Form::Socket => "127.0.0.1:17",
            Form::Secrets => "amqps://other.test",
            _ => "other",
        };
        let after = result(&[], &[(field.path, value)]);
        assert_ne!(after, before, "{}", field.path);
        let by_variable = result(&[(&variable(field.path), value)], &[]);
        assert_eq!(by_variable, after, "{}", field.path);
    }
}

/// The same of what an account has of its own.
#[test]
fn every_default_can_be_another_one_for_an_account() {
    let file = format!("{SHOP}server_key = 'k'\n");
    let result = |flags: &[(&str, &str)]| format!("{:?}", with(&file, &[], flags).unwrap().config);
    let before = result(&[]);
    let defaults = FIELDS
        .iter()
        .filter_map(|f| Some((f.path.strip_prefix("defaults.")?, f.form)));
    let mut all = std::collections::BTreeSet::new();
    for (name, form) in defaults {
        let value = match form {
            Form::Span | Form::SpanOrZero => "3m",
            _ => "17",
        };
        let own = result(&[(&format!("providers.shop.{name}"), value)]);
        assert_ne!(own, before, "{name}");
        all.insert(own);
    }
    assert!(all.len() >= 13, "each is another one: {}", all.len());
}

#[test]
fn the_address_of_a_database_names_a_host_and_a_mode_that_is_offered() {
    let told = |url: &str| {
        let file = format!("[ledger]\nurl = '{url}'\n");
        with(&file, &[], &[]).err().map(|error| error.to_string())
    };
    for right in [
        "postgres://u@h/d",
        "postgres://u@h/d?sslmode=verify-full",
        "postgres:///d?host=/run/postgresql",
    ] {
        let error = told(right).unwrap_or_default();
        assert!(!error.contains("ledger.url"), "{right}: {error}");
    }
    let refused = [
        ("postgres:///d", "must name a host"),
        ("postgres:///d?host=", "must name a host"),
        (
            "postgres://u@h/d?sslmode=prefer",
            "sslmode that is not offered",
        ),
    ];
    for (url, what) in refused {
        let error = told(url).unwrap_or_default();
        assert!(error.contains(what), "{url}: {error}");
    }
}

#[test]
fn every_default_is_valid_and_the_generated_file_changes_nothing() {
    for field in FIELDS.iter().chain(ACCOUNT) {
        assert_eq!(field.default.is_some(), Resolved::default(field).is_some());
    }
    let text = default_toml(PROVIDERS);
    holds(&text, &["[providers.example]", "server_key_file"]);
    let written = with(&text, &[], &[]).unwrap();
    let built_in = load(&Sources::default(), PROVIDERS).unwrap();
    let values = |loaded: &Loaded| -> Vec<_> {
        let rows = loaded.effective.iter();
        rows.map(|e| (e.path.clone(), e.value.clone())).collect()
    };
    assert_eq!(values(&written), values(&built_in));
}

/// `UPDATE=1` writes it anew.
#[test]
fn the_documented_file_has_every_setting_with_its_default() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/rescind.toml");
    let generated = default_toml(crate::providers::ALL);
    #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
    let update = std::env::var("UPDATE").is_ok();
    if update {
        std::fs::write(&path, &generated).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), generated);
}
