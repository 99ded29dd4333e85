//! What is told of mistakes.

use super::*;

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

#[test]
fn a_retention_below_the_time_in_which_a_request_is_repeated_is_seen() {
    let advised = |retention: &str, give_up_after: &str| {
        let file = format!(
            "[ledger]\nretention = '{retention}'\n{SHOP}server_key = 'k'\npoll.give_up_after = '{give_up_after}'\n"
        );
        let config = with(&file, &[], &[]).unwrap().config;
        let advised = config.retention_advised();
        advised.map(|advised| advised.as_secs() / 86_400)
    };
    assert_eq!(advised("90d", "7d"), None);
    assert_eq!(advised("8d", "7d"), None);
    assert_eq!(advised("90s", "7d"), Some(8));
    assert_eq!(advised("7d", "7d"), Some(8));
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
        "postgresql://u@h/d",
        "postgres:///d?host=/run/postgresql",
    ] {
        let error = told(right).unwrap_or_default();
        assert!(!error.contains("ledger.url"), "{right}: {error}");
    }
    let refused = [
        ("mysql://u@h/d", "must be sqlite:PATH or postgres://"),
        ("sqlite:", "must name a file"),
        ("sqlite://", "must name a file, as sqlite:PATH"),
        ("sqlite:///var/r.db", "write sqlite:/var/r.db"),
        ("sqlite://r.db", "write sqlite:r.db"),
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
