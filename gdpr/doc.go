// Package gdpr answers what people may ask about their data under the General
// Data Protection Regulation: everything about a person in one archive, and
// nothing left after an erasure, provably.
//
//	service, err := gdpr.New(gdprpg.New(pool), gdpr.Config{
//		Pepper:  pepper,                       // 32 bytes, outside the database
//		Sources: []gdpr.Source{users, posts, gdpr.Adapt(billingData, billing, retain, nil)},
//		Subject: loadSubject,                  // ID → every identifier of the person
//		Files:   gdpr.DirFiles("/var/lib/app/exports"),
//		Journal: gdpr.NewFileJournal("/mnt/other-volume/erasures.jsonl"),
//		Notify:  sendMail,
//	})
//	request, err := service.Ask(ctx, gdpr.Erasure, userID, true)
//	go service.Run(ctx)
//
// # Sources
//
// A [Source] is anything that holds personal data. It declares what and why,
// emits everything about one subject, and erases it in bounded, idempotent
// pages. [Adapt] makes one of each of this module's packages; package gdprpg
// makes one of a table, and its Cover finds the tables and columns that no
// source covers: run it as a test, and a new table can't be forgotten.
// gdprtest.TestSource fails a source that leaks, or erases half.
//
// What a source can't erase is an error, never an outcome: data is removed,
// anonymised, or retained on a ground that is named, with its end. Sources may
// do more: an [Expirer] removes what it retained, a [Sweeper] what is old, a
// [Rectifier] corrects.
//
// # Erasure
//
// An erasure is a saga over the sources, in the order of their dependencies.
// Its identifiers are frozen and sealed at the request, so that it can go on
// when the login is gone. It waits through a grace period, in which the
// account is frozen and the subject can cancel. Then, in one step of the store,
// it becomes irrevocable and its tombstones are written. Each page commits its
// progress; after a crash the next worker goes on from there; a source that
// fails delays itself and those that declare to come after it. At the end every
// source is searched again; what is left sends it back. Last come the final
// notice, the certificate, and the shredding of the sealed identifiers; what
// else the subject asked for ends, with the archives that wait.
//
// The second phase comes when the time of what was retained has ended: the
// source removes it, the certificate is written again, and the audit log says
// so. The time is computed anew, so that an open tax assessment extends it.
// What a processor holds is removed there by a person, whom Config.Remind tells
// and who says so with [Service.Removed].
//
// Tombstones are keyed hashes over each identifier and the person's epoch.
// [Service.Guard] refuses late messages by them. Mirrored to a [Journal]
// outside the database, they show at start-up that a backup was restored
// ([Service.CheckJournal]), and [Service.Reapply] erases again. Somebody else
// who got the same number or address later has another epoch and is left alone.
//
// # Export
//
// An archive is a ZIP with JSON Lines and CSV for each kind of record, the
// information of Art. 15(1), a manifest with hashes, and an index for people.
// It is written in constant memory, encrypted with a key of its own that is
// destroyed with the request, and opened by signed links that expire.
// Credentials, by a field's name or a value's looks, stop it with [ErrSecret];
// other persons become "person-1".
//
// # Answered by people
//
// Rectification, restriction and objection are answered by a person, with what
// the subject said in the sealed envelope ([Service.Words]). [Service.Rectify]
// corrects every source that can, [Service.Restricted] is the guard of a
// restriction, and an objection to a [Purpose] on legitimate interests counts
// at once. Config.Remind hears of a request that isn't answered a week before
// its time limit. After a breach, [Service.BreachReport] finds whom it concerns.
//
// # Guarantees
//
// Every change of a request and its entry in the hash-chained audit log commit
// together; [Service.VerifyAudit] names the first altered row. Notices are sent
// at least once, with a stable ID. Steps are at least once and idempotent.
// Nothing in requests, tombstones, audit log, certificates or this package's
// logs names a person: subjects stand there as keyed hashes.
//
// The verification can't see what no source covers, backups, write-ahead logs
// and dead rows before VACUUM: the certificate says so, and until when backups
// must be gone.
//
// # Articles
//
// What the regulation asks, where it is, and the test that shows it. This is an
// engineer's reading and no legal advice.
//
//	5(1)(c), 25  columns are listed, never "all"       TestNewTableRefusesWhatCannotBeRight, TestCoverFindsAColumnThatIsAddedToACoveredTable
//	5(2), 24     audit log without personal data        TestATamperedAuditLogNamesTheFirstAlteredRow
//	7(1), 7(3)   Consent, AllowedAt                     TestConsentIsProvedByVersionAndWithdrawnLikeGiven
//	12(3)        Calendar.Due, Extend, Overdue          TestDueIsOneMonthAndEndsOnAWorkingDay, TestAnExtensionIsToldOnceAndInTime
//	12(4)        Deny needs a reason                    TestADenialNeedsAReasonAndThaws
//	12(6)        Received until Verify or Confirm       TestAnUnverifiedRequestDoesNothing, TestALinkConfirmsWhoAsked
//	15           Access                                 TestExportHoldsEverythingOfOnePersonTwice
//	15(4)        Sink.Other                             TestTableThatReachesTheSubjectThroughAnother
//	12(3)        Remind                                 TestAReminderComesOnceBeforeTheTimeLimit
//	16           Rectify, Words                         TestARectificationReachesEverySourceThatCan, TestColumnsAreRectifiedThatMayBe
//	18           Restricted, Lift                       TestARestrictionIsInForceUntilItIsLifted
//	21           Purpose.Basis, Objection               TestAnObjectionEndsWhatIsAllowedByInterest, TestRequestsThatAPersonAnswers
//	17(1)        Erasure                                TestErasureWaitsRunsInOrderVerifiesAndCertifies, TestACrashAtAnyStepIsResumed
//	17(1)        everywhere, in a whole application     TestAPersonIsExportedWholeAndErasedEverywhere in examples/kolekt
//	17(3)(b)     Retain, InvoiceRetention               TestTableThatIsRetainedWithThePersonDetached
//	5(1)(e)      Expirer, Sweeper, Purge                TestRetainedDataGoesWhenItsTimeHasEnded, TestPurgeSweepsEverySourceThatCan
//	17(3)(e)     Hold                                   TestAHoldStopsAnErasureAndNotAnExport
//	20           Portability                            TestPortabilityLeavesOutWhatTheSubjectDidNotProvide
//	30           WriteRegister                          TestTheRegisterIsMadeOfTheSources
//	33, 34       BreachReport                           TestABreachReportSaysWhomItConcerns
//	32           encryption, expiring links, shredding  TestAnArchiveIsEncryptedAndGoesWhenItExpires, TestShreddedDataCannotBeReadByAnybody
//	restores     Journal, Reapply                       TestARestoredBackupIsNoticedAndErasedAgain
//
// # Goroutines
//
// New starts none. Run runs in the caller's goroutine and, while it builds an
// archive, in one more that keeps the lease.
package gdpr
