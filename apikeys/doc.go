// Package apikeys issues API keys, verifies them, and ends them everywhere.
//
//	keys, err := apikeys.New(apikeyspg.New(pool), apikeys.Config{
//		Prefix:  "acme",
//		Peppers: []apikeys.Pepper{{ID: 1, Secret: secret}},
//		Bus:     apikeyspg.NewBus(pool),
//	})
//	if err != nil {
//		return err
//	}
//	go keys.Run(ctx)
//	api := keys.Middleware(apikeys.MiddlewareConfig{})(mux)
//
// Behind the middleware, FromContext says who asks, and Require guards a route
// by scope. Issue makes a key, Rotate replaces it, Revoke ends it; Handler
// offers all of that to an account's own pages as JSON.
//
// # Tokens
//
// A token reads acme_live_ and 49 characters: 38 random ones (226 bits), 5
// that the pepper proves, 6 of checksum. The checksum refuses typing errors
// and lets scanners confirm a leak offline; it is no secret. The 5 characters
// refuse what somebody made up, without asking the store; they are a shield
// against load, never the decision. The decision is that the store knows the
// HMAC of the whole. The environment stands in what is hashed: a test key
// opens nothing live.
//
// The store holds 224 bits of one HMAC-SHA256 under a pepper: a dump of the
// database tests no key, and whoever writes to the database plants none. A
// slow hash would add nothing to 226 random bits but a lever for exhaustion.
// Without a pepper the hash is plain SHA-256.
//
// A Token prints its hint under every verb and encoder; only Reveal gives it.
// Go's strings can't be wiped from memory.
//
// # Staleness
//
// A change takes effect in its own process before the method returns. In every
// other process it takes effect when the bus or the next poll brings it, and
// at the latest after Config.MaxStaleness (5 s), whatever is partitioned,
// lost, late or reordered: a cached key counts only as long as either it or
// the log of changes was read from the store so recently. The bus carries no
// content, so nobody who writes to it can make a key valid. When the store
// doesn't answer, keys in the cache hold for that time and the rest is
// ErrUnavailable, which is 503 and never 401.
//
// Config.Shared adds a cache that several processes share. It needs no
// invalidation: each entry says how far its writer had read the log, and counts
// for a reader who has read the log from there on and found nothing about the
// key. So it is as fresh as the log, whatever the shared cache has kept.
//
// # Rotation
//
// A successor belongs to its predecessor's lineage. Count limits and usage on
// Principal.Lineage, and rotation neither doubles nor loses them.
//
// # Log
//
// Every change writes its log entry in the same atomic step. Entries are
// numbered without gaps and chained by hash: VerifyAudit names the first that
// was altered. The personal part of an entry can be erased without breaking
// the chain.
//
// # Clocks
//
// Expiry is judged by this process's clock. Staleness follows the monotonic
// clock. Processes whose clocks differ by a second disagree on expiry by that
// second.
//
// # Threats
//
// What could go wrong, what stands against it, and the test that shows it:
//
//   - the database is read: 224 bits under a pepper kept elsewhere, no copy of
//     any token (TestIssuedKeyVerifiesAndNothingElseDoes)
//   - the database is written to: a row without the pepper is no key
//     (TestRowsWrittenByHandAreNoKeys); a change of a row by hand isn't noticed
//   - a stored hash, hint or ID is presented as a key
//     (TestIssuedKeyVerifiesAndNothingElseDoes, TestImportedKeysWorkAtOnce)
//   - guessing: 226 bits (TestIssuedTokensAreUniqueUniformAndParse), one answer
//     (TestRefusalsOfUnknownAndMalformedKeysAreTheSame), a limit for each
//     network (TestInvalidKeysAreLimitedByNetwork)
//   - floods of made-up keys: no question to the store
//     (TestForgedKeysAskTheStoreNothing), one for many
//     (TestManyWhoAskAtOnceAskTheStoreOnce, TestUnknownKeyAsksTheStoreOnceInTwoSeconds),
//     bounded memory and work (TestGarbageKeepsMemoryBounded, TestLookupsAreBounded)
//   - timing: look-up by the full HMAC, constant-time comparison (TestTimingTellsNothing)
//   - a revoked key lives on elsewhere (TestPartitionedNodeForgetsInTime,
//     TestNoKeyIsAcceptedAfterItsBound, TestRevocationReachesOtherProcessesByNotification)
//   - a reading overtakes a revocation (TestRevokeAndFillNeverLeaveAStaleKey,
//     TestRevokingAgainIsEffectiveHere)
//   - rotation doubles a limit or prolongs a life (TestLimitIsAskedOnTheLineage,
//     TestRotationKeepsEverythingButTheSecret, TestOneOfAHundredRotationsSucceeds)
//   - keys in URLs, logs, panics, dumps (TestMiddlewareTakesExactlyOneKey,
//     TestTokenNeverPrintsItself, TestNoSecretLeavesTheService)
//   - keys in public places (TestGitHubReportRevokesTheKey,
//     TestScanFindsEveryTokenWhereverBlocksEnd, TestRulesMatchTokens)
//   - a forged X-Forwarded-For (TestForwardedAddressCountsOnlyFromTrustedProxies,
//     TestNetworks)
//   - two keys, two headers, huge headers (TestMiddlewareTakesExactlyOneKey)
//   - keys that grant more than their maker holds, or make keys
//     (TestNobodyGrantsMoreThanTheyHold, TestGrantedScopesAreNeverMore)
//   - a test key opens live (TestTestKeyNeverOpensLive)
//   - clocks: an injected one; staleness follows the monotonic clock
//     (TestExpiryIsAnInstant)
//   - faults open a door (TestStoreFailureSaysNothingAboutTheKey,
//     TestServeStaleServesSoLongAndNoLonger, TestLimitIsAskedOnTheLineage,
//     TestUnknownOutcomeOfARevocation)
//   - the log is altered, or written into (TestVerifyAuditNamesTheFirstAlteredEntry,
//     TestKeptHeadShowsARewrittenLog, TestLastUseCostsNoWriteAndArrives)
//   - memory is read: the cache holds no token; Go can't wipe strings
//   - the shared cache is read, written to, or keeps what it should not
//     (TestSharedCacheIsNotTrusted, TestSharedCacheNeverBringsAKeyBack)
//   - one owner reaches another's keys (TestOthersKeysDoNotExist, TestHandlerRefuses)
//   - another site's page sends requests (TestHandlerRefuses)
//   - erasure leaves something (TestSubjectIsExportedAndErased)
//
// # A store of one's own
//
// Implement Store and run apikeystest.TestStore on it.
package apikeys
