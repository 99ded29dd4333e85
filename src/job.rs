//! The nouns: what a cancel request is once it has been understood. Pure.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use rust_decimal::Decimal;

/// A cancel request that was parsed and found valid for its provider's kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The publisher's idempotency key, `^[A-Za-z0-9._:-]{1,128}$`.
    pub request_id: String,
    /// Name of the configured account, `[providers.<name>]`.
    pub provider: String,
    /// The payment, as the provider's kind identifies one.
    pub payment: Payment,
    /// Partial cancellation; `None` means the whole payment.
    pub amount: Option<Amount>,
    /// ISO 4217 code as sent by the publisher.
    pub currency: Option<Currency>,
    /// The publisher's own words, at most 255 characters.
    pub reason: Option<String>,
    /// No cancel is sent after this instant.
    pub deadline: Option<Timestamp>,
}

/// Longest [`Payment::key`], in bytes. An index of PostgreSQL's takes 2,704 in all.
pub const PAYMENT_KEY_BYTES_MAX: usize = 1024;

/// The ids of one payment, checked by the adapter that will use them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Payment {
    /// Canonical name of the payment within its account. Two requests with the same key
    /// are about the same money and are never carried out at the same time.
    pub key: String,
    /// The ids by their contract names, integers as decimal text.
    pub ids: BTreeMap<&'static str, String>,
}

impl Payment {
    /// The id of that name, or the empty string; adapters have checked presence before.
    pub fn id(&self, name: &str) -> &str {
        self.ids.get(name).map_or("", String::as_str)
    }

    /// Refuses ids that no ledger could look for.
    pub(crate) fn check_length(&self) -> Result<(), String> {
        match self.key.len() {
            ..=PAYMENT_KEY_BYTES_MAX => Ok(()),
            bytes => Err(format!(
                "the ids of the payment are too long: in the form in which they are kept they have {bytes} bytes; at most {PAYMENT_KEY_BYTES_MAX} are taken"
            )),
        }
    }
}

/// A positive or zero amount in the currency's major unit, exactly as published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount(Decimal);

/// Why an amount cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not of the contract's form.
    #[error("amount must match ^[0-9]{{1,18}}(\\.[0-9]{{1,6}})?$")]
    Form,
    /// The currency has fewer decimals than the amount, or the amount is too large.
    #[error("amount {amount} cannot be expressed in {currency} minor units ({exponent} decimals)")]
    Precision {
        /// As published.
        amount: String,
        /// ISO 4217 code.
        currency: String,
        /// Decimals of that currency.
        exponent: u32,
    },
}

impl Amount {
    /// Parses the contract's form, `^[0-9]{1,18}(\.[0-9]{1,6})?$`. Exponents, signs and
    /// separators that a decimal library would take are refused.
    pub fn parse(text: &str) -> Result<Self, AmountError> {
        let (whole, fraction) = text
            .split_once('.')
            .map_or((text, None), |(w, f)| (w, Some(f)));
        let digits = |part: &str, most: usize| {
            (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit())
        };
        if !digits(whole, 18) || fraction.is_some_and(|f| !digits(f, 6)) {
            return Err(AmountError::Form);
        }
        Decimal::from_str_exact(text)
            .map(Self)
            .map_err(|_| AmountError::Form)
    }

    /// An amount that a provider gave in minor units.
    pub fn from_minor_units(units: i64, currency: Currency) -> Self {
        Self(Decimal::new(units, currency.exponent()))
    }

    /// The amount as an integer in the currency's minor unit; never rounded.
    pub fn minor_units(self, currency: Currency) -> Result<i64, AmountError> {
        let exponent = currency.exponent();
        let precision = || AmountError::Precision {
            amount: self.to_string(),
            currency: currency.to_string(),
            exponent,
        };
        let scaled = self.0.normalize();
        if scaled.scale() > exponent {
            return Err(precision());
        }
        let factor = Decimal::from(10_i64.pow(exponent));
        let units = scaled.checked_mul(factor).ok_or_else(precision)?;
        i64::try_from(units).map_err(|_| precision())
    }

    /// True for an amount of nothing.
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A currency of ISO 4217 whose number of decimals is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Currency {
    code: &'static str,
    exponent: u32,
}

/// Currencies by their number of decimals (ISO 4217, list one). A code that is not here is
/// refused rather than guessed: a wrong exponent moves a hundred times the money.
const EXPONENTS: [(u32, &str); 4] = [
    (
        0,
        "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    ),
    (
        2,
        "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD \
         CAD CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD \
         GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD \
         MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP \
         PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS \
         TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG",
    ),
    (3, "BHD IQD JOD KWD LYD OMR TND"),
    (4, "CLF UYW"),
];

impl Currency {
    /// Parses a three-letter upper-case code of ISO 4217.
    pub fn parse(code: &str) -> Option<Self> {
        EXPONENTS.iter().find_map(|&(exponent, codes)| {
            let code = codes.split_whitespace().find(|known| *known == code)?;
            Some(Self { code, exponent })
        })
    }

    /// Number of decimals of the major unit.
    pub fn exponent(self) -> u32 {
        self.exponent
    }

    /// The three letters.
    pub fn as_str(&self) -> &'static str {
        self.code
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Stands where no provider could be read, and for accounts that are not configured.
pub const UNKNOWN_PROVIDER: &str = "unknown";

/// Whether it can name an account: `^[a-z0-9_-]{1,64}$`.
pub fn is_account_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_take_the_contract_form_and_nothing_else() {
        for good in ["0", "7", "10.10", "999999999999999999.999999"] {
            assert_eq!(Amount::parse(good).expect(good).to_string(), good);
        }
        for bad in [
            "",
            ".",
            "1.",
            ".5",
            "1e3",
            "1_000",
            "-1",
            "+1",
            " 1",
            "1,0",
            "1.1234567",
            "NaN",
        ] {
            assert_eq!(Amount::parse(bad), Err(AmountError::Form), "{bad}");
        }
    }

    #[test]
    fn minor_units_follow_the_currency_and_never_round() {
        let units = |amount: &str, code: &str| {
            Amount::parse(amount)
                .expect(amount)
                .minor_units(Currency::parse(code).expect(code))
        };
        assert_eq!(units("10.10", "USD"), Ok(1010));
        assert_eq!(units("10.100000", "USD"), Ok(1010));
        assert_eq!(units("500", "JPY"), Ok(500));
        assert_eq!(units("1.234", "KWD"), Ok(1234));
        assert!(units("1.5", "JPY").is_err());
        assert!(units("1.001", "EUR").is_err());
        assert!(units("999999999999999999.99", "KWD").is_err());
    }

    #[test]
    fn an_unknown_currency_is_refused() {
        assert!(Currency::parse("XXQ").is_none());
        assert!(Currency::parse("usd").is_none());
        assert!(Currency::parse("").is_none());
    }
}
